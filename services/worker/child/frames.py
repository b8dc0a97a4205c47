"""The child's protocol: JSON values over a socket pair, each preceded by the key of its job and its length.

User code can write to the child's descriptors: only what begins with the job's key is the answer to it.
"""

import json
import os
import struct
from typing import Any, BinaryIO

HEAD = struct.Struct(">16sI")
TOKEN = struct.Struct("=I")  # of a task of a session, in the pipe of tokens (child/session)
END = 0  # the token that ends a session


def new_key() -> bytes:
    return os.urandom(16)


def encode(key: bytes, value: Any) -> bytes:
    return pack(key, encode_body(value))


def encode_body(value: Any) -> bytes:
    return json.dumps(value).encode()


def pack(key: bytes, body: bytes) -> bytes:
    return HEAD.pack(key, len(body)) + body


def decode(body: bytes) -> Any:
    """Uses the standard library's reader: stricter ones refuse the lone surrogates that its writer lets through."""
    return json.loads(body)


def read(stream: BinaryIO) -> tuple[bytes, Any] | None:
    """The next key and value, or None when the other side has gone."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    key, length = HEAD.unpack(head)
    return key, decode(stream.read(length))
