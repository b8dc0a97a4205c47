"""The columns of a Parquet file, as its footer names them: read without pyarrow, which takes a child's memory.

The schema is a list of SchemaElement, a tree in depth-first order:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.inputs.parquet import thrift
from services.inputs.parquet.footer import END_BYTES, MAGIC, ParquetError, footer_bytes

_SCHEMA = 2  # a field of FileMetaData; those of SchemaElement:
_NAME, _CHILDREN, _PRECISION = 4, 5, 8


@dataclass(slots=True)
class Column:
    """A column, and the most digits that a decimal in it has; 0 if there is none."""

    name: str
    digits: int = 0


def read_columns(path: Path) -> list[Column]:
    """Raises ParquetError."""
    footer = _read_footer(path)
    try:
        return _columns(next(thrift.structs(fact) for fact in thrift.fields(footer) if fact.number == _SCHEMA))
    except (ValueError, LookupError, StopIteration) as error:
        raise ParquetError(f"{path.name} has a schema that can't be read: {error}") from None


def _columns(elements: Sequence[bytes]) -> list[Column]:
    """The first element is the whole row, and has them as children."""
    columns, open_children = list[Column](), 0
    for element in elements[1:]:
        facts = {fact.number: fact for fact in thrift.fields(element)}
        if open_children == 0:
            columns.append(Column(thrift.text(facts[_NAME])))
            open_children = 1
        digits = thrift.integer(facts[_PRECISION]) if _PRECISION in facts else 0
        columns[-1].digits = max(columns[-1].digits, digits)
        open_children += (thrift.integer(facts[_CHILDREN]) if _CHILDREN in facts else 0) - 1
    return columns


def _read_footer(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - END_BYTES - len(MAGIC)))
        length = footer_bytes(path.name, file.read(), size)
        file.seek(size - length)
        return file.read(length - END_BYTES)
