"""Thrift's compact protocol, for a Parquet file's footer.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md. Values are left as they are encoded,
since almost all of a footer is copied from file to file.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from services.inputs.varint import write_varint

INTEGERS = (4, 5, 6)  # i16, i32, i64: variable in length, so each may be written as another
STRUCT, LIST = 12, 9
_TRUE, _FALSE, _BYTE, _DOUBLE, _BYTES, _SET, _MAP, _UUID = 1, 2, 3, 7, 8, 10, 11, 13
_SIZES = {_TRUE: 0, _FALSE: 0, _BYTE: 1, _DOUBLE: 8, _UUID: 16}
_DEPTH_MAX = 64


class Field(NamedTuple):
    """A field of a struct, whose value is still encoded."""

    number: int
    type: int
    value: bytes


def fields(data: bytes) -> Iterator[Field]:
    """The fields of the struct that `data` begins with. Raises ValueError."""
    position = number = 0
    try:
        while header := data[position]:
            number, start = _number(data, position, number)
            position = _skip(data, start, header & 15, 0)
            yield Field(number, header & 15, data[start:position])
    except IndexError:
        raise ValueError("it is cut short") from None


def struct(fields: Iterable[Field]) -> bytes:
    """A struct, as it is written; the fields are in the order of their numbers."""
    encoded, last = bytearray(), 0
    for number, type, value in fields:
        if 0 < number - last < 16:
            encoded.append((number - last) << 4 | type)
        else:
            encoded += bytes([type]) + write_varint(_zigzag(number))
        encoded += value
        last = number
    return bytes(encoded) + b"\0"


def structs(field: Field) -> list[bytes]:
    """The structs of a list, each as it is encoded. Raises ValueError."""
    data = field.value
    try:
        count, type, position = _list_header(data, 0)
        if field.type != LIST or (type != STRUCT and count):
            raise ValueError(f"field {field.number} is not a list of structs")
        found = []
        for _ in range(count):
            start, position = position, _skip(data, position, STRUCT, 0)
            found.append(data[start:position])
    except IndexError:
        raise ValueError("it is cut short") from None
    return found


def list_of_structs(number: int, items: list[bytes]) -> Field:
    header = bytes([len(items) << 4 | STRUCT]) if len(items) < 15 else bytes([0xF0 | STRUCT]) + write_varint(len(items))
    return Field(number, LIST, header + b"".join(items))


def integer(field: Field) -> int:
    """Raises ValueError if the field is not an integer."""
    if field.type not in INTEGERS:
        raise ValueError(f"field {field.number} is not an integer")
    value, _ = _read_varint(field.value, 0)
    return (value >> 1) ^ -(value & 1)


def text(field: Field) -> str:
    """Raises ValueError if the field is not text."""
    if field.type != _BYTES:
        raise ValueError(f"field {field.number} is not text")
    length, start = _read_varint(field.value, 0)
    return field.value[start : start + length].decode()


def with_integer(field: Field, value: int) -> Field:
    return field._replace(value=write_varint(_zigzag(value)))


def _skip(data: bytes, position: int, type: int, depth: int) -> int:
    """The end of a value of that type."""
    if type in INTEGERS:
        while data[position] > 127:
            position += 1
        return position + 1
    if type == _BYTES:
        length, position = _read_varint(data, position)
        return _within(data, position + length)
    if (size := _SIZES.get(type)) is not None:
        return _within(data, position + size)
    if depth > _DEPTH_MAX:
        raise ValueError("it is nested too deeply")
    if type == STRUCT:
        return _skip_struct(data, position, depth)
    if type in (LIST, _SET):
        count, inner, position = _list_header(data, position)
        return _skip_all(data, position, (inner,), count, depth)
    if type == _MAP:
        count, position = _read_varint(data, position)
        kinds = data[position] if count else 0
        return _skip_all(data, position + 1 if count else position, (kinds >> 4, kinds & 15), count, depth)
    raise ValueError(f"a value has the unknown type {type}")


def _skip_struct(data: bytes, position: int, depth: int) -> int:
    """Without a call for each integer and short text, since a footer may have millions."""
    while header := data[position]:
        type = header & 15
        position += 1
        if header < 16:
            _, position = _read_varint(data, position)
        if 4 <= type <= 6:
            while data[position] > 127:
                position += 1
            position += 1
        elif type == _BYTES and data[position] < 128:
            position += 1 + data[position]
        else:
            position = _skip(data, position, type, depth + 1)
    return position + 1


def _skip_all(data: bytes, position: int, types: tuple[int, ...], count: int, depth: int) -> int:
    if types == (_BYTES,):  # most lists: the path of a column
        for _ in range(count):
            length, position = _read_varint(data, position)
            position = _within(data, position + length)
        return position
    for _ in range(count):
        for type in types:  # a boolean in a list is a byte
            position = _skip(data, position, _BYTE if type in (_TRUE, _FALSE) else type, depth + 1)
    return position


def _list_header(data: bytes, position: int) -> tuple[int, int, int]:
    """The number of items, their type, and where they begin."""
    header = data[position]
    if header >> 4 < 15:
        return header >> 4, header & 15, position + 1
    count, position = _read_varint(data, position + 1)
    return count, header & 15, position


def _number(data: bytes, position: int, last: int) -> tuple[int, int]:
    """A field's number, and where its value begins."""
    if header := data[position] >> 4:
        return last + header, position + 1
    value, position = _read_varint(data, position + 1)
    return (value >> 1) ^ -(value & 1), position


def _within(data: bytes, position: int) -> int:
    if position > len(data):
        raise IndexError
    return position


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("an integer does not end")


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1
