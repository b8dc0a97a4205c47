"""Arrow IPC footers: where in a file its dictionaries and record batches are. pyarrow does not expose this."""

import struct
from typing import Any

from services.inputs.chunk import SplitError

_MAGIC = b"ARROW1"
_BEGIN = _MAGIC + bytes(2)
_FOOTER_BYTES_MAX = 33_554_432  # more than a million record batches
_END_BYTES = 4 + len(_MAGIC)  # the footer's length, and the magic
_DICTIONARIES, _RECORD_BATCHES = 2, 3  # fields of the flatbuffer table Footer
_BLOCK = struct.Struct("<qi4xq")  # offset, length of its metadata, length of its body

Range = tuple[int, int]


class ArrowError(SplitError):
    """The object is not an Arrow IPC file that can be read; the message says why."""


def footer_bytes(uri: str, tail: bytes, size: int) -> int:
    """The length of the footer, including its end, of a file of `size` bytes that ends with `tail`."""
    if len(tail) < _END_BYTES or not tail.endswith(_MAGIC):
        raise ArrowError(f"{uri} is not an Arrow IPC file: it does not end with {_MAGIC.decode()}")
    length = int.from_bytes(tail[-_END_BYTES : -len(_MAGIC)], "little", signed=True) + _END_BYTES
    if not _END_BYTES < length <= size:
        raise ArrowError(f"{uri} can't be read as an Arrow IPC file: it names a footer of {length} bytes")
    if length > _FOOTER_BYTES_MAX:
        raise ArrowError(f"{uri} names a footer of {length} bytes; at most {_FOOTER_BYTES_MAX} are read")
    return length


def parse_blocks(uri: str, footer: bytes) -> tuple[list[Range], list[Range]]:
    """The byte ranges of all dictionaries and of all record batches; `footer` is as long as `footer_bytes` says."""
    try:
        (table,) = struct.unpack_from("<I", footer, 0)
        return _blocks(footer, table, _DICTIONARIES), _blocks(footer, table, _RECORD_BATCHES)
    except struct.error as error:
        raise ArrowError(f"{uri} has a footer that can't be read: {error}") from None


def parse_schema(uri: str, footer: bytes) -> Any:
    """The pyarrow.Schema, which is in the footer, too."""
    import pyarrow
    import pyarrow.ipc

    try:
        return pyarrow.ipc.open_file(pyarrow.BufferReader(_BEGIN + footer)).schema
    except (pyarrow.ArrowException, OSError) as error:
        raise ArrowError(f"{uri} has a schema that can't be read: {error}") from None


def _blocks(footer: bytes, table: int, field: int) -> list[Range]:
    """The vector of Block structs in a field of the table."""
    vtable = table - struct.unpack_from("<i", footer, table)[0]
    (vtable_bytes,) = struct.unpack_from("<H", footer, vtable)
    slot = 4 + 2 * field
    offset = struct.unpack_from("<H", footer, vtable + slot)[0] if slot < vtable_bytes else 0
    if offset == 0:
        return []  # the field is not there
    vector = table + offset + struct.unpack_from("<I", footer, table + offset)[0]
    (count,) = struct.unpack_from("<I", footer, vector)
    blocks = (_BLOCK.unpack_from(footer, vector + 4 + number * _BLOCK.size) for number in range(count))
    return [(start, start + metadata + body) for start, metadata, body in blocks]
