"""Parquet footers: the metadata at a file's end, and where in the file its columns are."""

from typing import Any

from services.inputs.chunk import SplitError

_MAGIC = b"PAR1"
_END_BYTES = 4 + len(_MAGIC)  # the footer's length, and the magic
_FOOTER_BYTES_MAX = 268_435_456

Range = tuple[int, int]


class ParquetError(SplitError):
    """The object is not a Parquet file that can be read; the message says why."""


def footer_bytes(uri: str, tail: bytes, size: int) -> int:
    """The length of the footer, including its end, of a file of `size` bytes that ends with `tail`."""
    if len(tail) < len(_MAGIC) + _END_BYTES or not tail.endswith(_MAGIC):
        raise ParquetError(f"{uri} is not a Parquet file: it does not end with {_MAGIC.decode()}")
    length = int.from_bytes(tail[-_END_BYTES : -len(_MAGIC)], "little") + _END_BYTES
    if length > size - len(_MAGIC):  # which begins the file, too
        raise ParquetError(
            f"{uri} can't be read as a Parquet file: it names a footer of {length} bytes, longer than the file"
        )
    if length > _FOOTER_BYTES_MAX:
        raise ParquetError(f"{uri} names a footer of {length} bytes; at most {_FOOTER_BYTES_MAX} are read")
    return length


def parse_footer(uri: str, footer: bytes) -> Any:
    """The pyarrow.parquet.FileMetaData; `footer` is as long as `footer_bytes` says. Raises ParquetError."""
    import pyarrow  # large: loaded only when needed
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_metadata(pyarrow.BufferReader(_MAGIC + footer))
    except (pyarrow.ArrowException, OSError) as error:
        raise ParquetError(f"{uri} has a footer that can't be read: {error}") from error


def arrow_schema(uri: str, metadata: Any) -> Any:
    """The pyarrow.Schema of a FileMetaData. Raises ParquetError."""
    import pyarrow

    try:
        return metadata.schema.to_arrow_schema()
    except (pyarrow.ArrowException, OSError) as error:
        raise ParquetError(f"{uri} has a schema that can't be read: {error}") from error


def column_range(column: Any) -> Range:
    """The bytes of a column of a row group, its dictionary included."""
    start = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)))
    return start, start + column.total_compressed_size


def row_group_range(row_group: Any) -> Range:
    """The bytes of a row group, from its first column to its last."""
    ranges = [column_range(row_group.column(number)) for number in range(row_group.num_columns)]
    return min(start for start, _ in ranges), max(end for _, end in ranges)
