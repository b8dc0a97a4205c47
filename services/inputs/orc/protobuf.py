"""Protocol Buffers' wire format, for an ORC file's tail: https://protobuf.dev/programming-guides/encoding."""

from collections.abc import Iterator
from typing import NamedTuple

from services.inputs.varint import read_varint, write_varint

_SIZE_OF_FIXED = {1: 8, 5: 4}  # by wire type
_VARINT, _BYTES = 0, 2
_FIELDS_MAX = 1_000_000  # each takes many times its bytes as an object


class Field(NamedTuple):
    """A field of a message: its value is an integer or bytes; `raw` is its encoding, including the number."""

    number: int
    value: int | bytes
    raw: bytes


def fields(message: bytes) -> Iterator[Field]:
    """The fields of a message, in its order. Raises ValueError if it is not one."""
    position = count = 0
    while position < len(message):
        start, count = position, count + 1
        if count > _FIELDS_MAX:
            raise ValueError(f"it has more than {_FIELDS_MAX} fields")
        key, position = read_varint(message, position)
        number, wire_type = key >> 3, key & 7
        value: int | bytes
        if wire_type == _VARINT:
            value, position = read_varint(message, position)
        else:
            size = _SIZE_OF_FIXED.get(wire_type)
            if wire_type == _BYTES:
                size, position = read_varint(message, position)
            if size is None or position + size > len(message):
                raise ValueError(f"field {number} at byte {start} is damaged")
            value, position = message[position : position + size], position + size
        yield Field(number, value, message[start:position])


def integer(number: int, value: int) -> bytes:
    """An integer's field, as it is written."""
    return write_varint(number << 3 | _VARINT) + write_varint(value)


def message(number: int, value: bytes) -> bytes:
    """A message's or string's field, as it is written."""
    return write_varint(number << 3 | _BYTES) + write_varint(len(value)) + value
