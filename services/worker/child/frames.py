"""The child's protocol: JSON values over a socket pair, each preceded by its length in four bytes."""

import json
import struct
from typing import Any, BinaryIO

LENGTH = struct.Struct(">I")


def encode(value: Any) -> bytes:
    body = json.dumps(value).encode()
    return LENGTH.pack(len(body)) + body


def decode(body: bytes) -> Any:
    """Uses the standard library's reader: stricter ones refuse the lone surrogates that its writer lets through."""
    return json.loads(body)


def read(stream: BinaryIO) -> Any:
    """The next value, or None when the other side has gone."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    return decode(stream.read(*LENGTH.unpack(head)))
