"""The child's protocol: JSON values over a socket pair, each preceded by the key of its job and its length.

User code can write to the child's descriptors: only what begins with the job's key is the answer to it.
In a session, the bytes of files may follow a value: NUL, which no JSON text holds, and then they (`with_bytes`).
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


def with_bytes(text: bytes, *pieces: bytes) -> bytes:
    """A JSON text and bytes as one body."""
    return b"\0".join((text, b"".join(pieces)))


def cut_bytes(body: bytes) -> tuple[bytes, bytes | None]:
    """The JSON text of a body, and the bytes after it; None if it has no place for them."""
    text, has_bytes, rest = body.partition(b"\0")
    return text, rest if has_bytes else None


def decode(body: bytes) -> Any:
    """Uses the standard library's reader: stricter ones refuse the lone surrogates that its writer lets through."""
    return json.loads(body)


def read(stream: BinaryIO) -> tuple[bytes, Any] | None:
    """The next key and value, or None when the other side has gone."""
    found = read_with_bytes(stream)
    return found and found[:2]


def read_with_bytes(stream: BinaryIO) -> tuple[bytes, Any, bytes] | None:
    """Likewise, with the bytes after the value."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    key, length = HEAD.unpack(head)
    text, rest = cut_bytes(stream.read(length))
    return key, decode(text), rest or b""
