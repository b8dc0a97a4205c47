"""Parquet footers: the metadata at a file's end."""

from typing import Any

from services.inputs.chunk import SplitError

MAGIC = b"PAR1"
_ENCRYPTED_MAGIC = b"PARE"
END_BYTES = 4 + len(MAGIC)  # the footer's length, and the magic
_FOOTER_BYTES_MAX = 268_435_456


class ParquetError(SplitError):
    """The object is not a Parquet file that can be read; the message says why."""


def footer_bytes(uri: str, tail: bytes, size: int) -> int:
    """The length of the footer, including its end, of a file of `size` bytes that ends with `tail`."""
    if tail.endswith(_ENCRYPTED_MAGIC):
        raise ParquetError(f"{uri} has an encrypted footer, which can't be read: write it without encryption")
    if len(tail) < len(MAGIC) + END_BYTES or not tail.endswith(MAGIC):
        raise ParquetError(f"{uri} is not a Parquet file: it does not end with {MAGIC.decode()}")
    length = int.from_bytes(tail[-END_BYTES : -len(MAGIC)], "little") + END_BYTES
    if length > size - len(MAGIC):  # which begins the file, too
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
        return pyarrow.parquet.read_metadata(pyarrow.BufferReader(MAGIC + footer))
    except (pyarrow.ArrowException, OSError) as error:
        raise ParquetError(f"{uri} has a footer that can't be read: {error}") from error


def arrow_schema(uri: str, metadata: Any) -> Any:
    """The pyarrow.Schema of a FileMetaData. Raises ParquetError."""
    import pyarrow

    try:
        return metadata.schema.to_arrow_schema()
    except (pyarrow.ArrowException, OSError) as error:
        raise ParquetError(f"{uri} has a schema that can't be read: {error}") from error


def column_range(column: Any) -> tuple[int, int]:
    """The bytes of a column of a row group, its dictionary included."""
    start = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)))
    return start, start + column.total_compressed_size
