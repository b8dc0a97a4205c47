"""The footer of a Parquet file: where its row groups are, and a new footer for a file with only some of them.

The format: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift. Nothing in a row group
says where in the file it is, so its bytes can be moved from file to file as they are; their places are in the footer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from services.inputs.parquet import thrift
from services.inputs.parquet.footer import END_BYTES, MAGIC, ParquetError
from services.inputs.parquet.thrift import Field

# Fields of the structs FileMetaData, RowGroup, ColumnChunk and ColumnMetaData.
_ROWS, _ROW_GROUPS, _ENCRYPTION = 3, 4, 8
_COLUMNS, _GROUP_ROWS, _GROUP_OFFSET, _ORDINAL = 1, 3, 5, 7
_FILE_PATH, _CHUNK_OFFSET, _CHUNK_METADATA = 1, 2, 3
_INDEXES, _COLUMN_ENCRYPTION = (4, 5, 6, 7), (8, 9)
_CHUNK_BYTES, _DATA_OFFSET, _INDEX_OFFSET, _DICTIONARY_OFFSET = 7, 9, 10, 11
_BLOOM_FILTER = (14, 15)
_ENCRYPTED = "it has encrypted columns, which can't be read: write it without encryption"


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group's bytes in the file, and its description."""

    start: int
    end: int
    rows: int
    facts: list[Field]


@dataclass(frozen=True, slots=True)
class Tail:
    """What the footer holds: the fields of FileMetaData, and each row group as it is encoded."""

    uri: str
    facts: list[Field]
    row_groups: list[bytes]

    def row_group(self, number: int) -> RowGroup:
        """Raises ParquetError."""
        try:
            return _row_group(self.row_groups[number])
        except ValueError as error:
            raise ParquetError(f"{self.uri}: row group {number} can't be read: {error}") from None


@lru_cache(maxsize=1)  # tasks of one job, which come one after the other, read the same footer; large ones take seconds
def parse_tail(uri: str, footer: bytes) -> Tail:
    """Read a footer with its end. Raises ParquetError."""
    try:
        facts = list(thrift.fields(footer[:-END_BYTES]))
        if any(fact.number == _ENCRYPTION for fact in facts):
            raise ValueError(_ENCRYPTED)
        return Tail(uri, facts, thrift.structs(next(fact for fact in facts if fact.number == _ROW_GROUPS)))
    except StopIteration:
        return Tail(uri, facts, [])
    except ValueError as error:
        raise ParquetError(f"{uri} has a footer that can't be read: {error}") from None


def make_tail(tail: Tail, moved: Sequence[tuple[RowGroup, int]]) -> bytes:
    """The footer of a file with only these row groups, each moved by a number of bytes.

    It names no page indexes and Bloom filters, which are elsewhere in the file. Raises ParquetError.
    """
    try:
        return _make_tail(tail, moved)
    except ValueError as error:
        raise ParquetError(f"{tail.uri} has a footer that can't be read: {error}") from None


def _make_tail(tail: Tail, moved: Sequence[tuple[RowGroup, int]]) -> bytes:
    rows = sum(group.rows for group, _ in moved)
    groups = [_moved_group(group, by, ordinal) for ordinal, (group, by) in enumerate(moved)]
    facts = [thrift.with_integer(fact, rows) if fact.number == _ROWS else fact for fact in tail.facts]
    facts = [thrift.list_of_structs(_ROW_GROUPS, groups) if fact.number == _ROW_GROUPS else fact for fact in facts]
    footer = thrift.struct(facts)
    return footer + len(footer).to_bytes(4, "little") + MAGIC


def _row_group(encoded: bytes) -> RowGroup:
    """Raises ValueError."""
    facts = list(thrift.fields(encoded))
    ranges = [_column_range(column) for column in _columns(facts)]
    used = [(start, end) for start, end in ranges if end > start]
    start, end = (
        min((start for start, _ in used), default=len(MAGIC)),
        max((end for _, end in used), default=len(MAGIC)),
    )
    if start < len(MAGIC):
        raise ValueError(f"it is said to begin at byte {start}")
    return RowGroup(start, end, _value(facts, _GROUP_ROWS), facts)


def _columns(group: Sequence[Field]) -> list[bytes]:
    return [column for fact in group if fact.number == _COLUMNS for column in thrift.structs(fact)]


def _column_range(encoded: bytes) -> tuple[int, int]:
    """The bytes of a column, its dictionary included."""
    chunk = list(thrift.fields(encoded))
    if any(fact.number == _FILE_PATH for fact in chunk):
        raise ValueError("its columns are in other files")
    if any(fact.number in _COLUMN_ENCRYPTION for fact in chunk):
        raise ValueError(_ENCRYPTED)
    facts = _metadata(chunk)
    start = min(filter(None, (_value(facts, _DICTIONARY_OFFSET), _value(facts, _DATA_OFFSET))), default=0)
    return start, start + _value(facts, _CHUNK_BYTES)


def _metadata(chunk: Sequence[Field]) -> list[Field]:
    return next((list(thrift.fields(fact.value)) for fact in chunk if fact.number == _CHUNK_METADATA), [])


def _moved_group(group: RowGroup, by: int, ordinal: int) -> bytes:
    columns = [_moved_column(column, by) for column in _columns(group.facts)]
    return thrift.struct(
        thrift.list_of_structs(_COLUMNS, columns)
        if fact.number == _COLUMNS
        else thrift.with_integer(fact, ordinal)
        if fact.number == _ORDINAL
        else _moved(fact, by, _GROUP_OFFSET)
        for fact in group.facts
    )


def _moved_column(encoded: bytes, by: int) -> bytes:
    chunk = [fact for fact in thrift.fields(encoded) if fact.number not in _INDEXES]
    offsets = (_DATA_OFFSET, _INDEX_OFFSET, _DICTIONARY_OFFSET)
    metadata = [_moved(fact, by, *offsets) for fact in _metadata(chunk) if fact.number not in _BLOOM_FILTER]
    return thrift.struct(
        fact._replace(value=thrift.struct(metadata))
        if fact.number == _CHUNK_METADATA
        else _moved(fact, by, _CHUNK_OFFSET)
        for fact in chunk
    )


def _moved(fact: Field, by: int, *offsets: int) -> Field:
    """The field; if it is one of the offsets, further on by that number of bytes. Zero means that there is none."""
    if fact.number not in offsets or (offset := thrift.integer(fact)) == 0:
        return fact
    return thrift.with_integer(fact, max(0, offset + by))


def _value(facts: Sequence[Field], number: int) -> int:
    """Zero if it is not there."""
    return next((thrift.integer(fact) for fact in facts if fact.number == number), 0)
