"""How DuckDB gets the records of a file: the result of every format's `show`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from services.inputs.columns import Columns
from services.inputs.csv_dialect import CsvDialect
from services.inputs.reader import Reader


@dataclass(frozen=True, slots=True)
class SqlFile:
    """A file that DuckDB reads itself: Parquet, or CSV in its dialect.

    `columns`, which CSV needs, are all the columns, each of them text. A copy of a `compressed` file is plain text.
    """

    path: Path
    kind: Literal["parquet", "csv"]
    columns: tuple[str, ...] | None = None
    dialect: CsvDialect | None = None
    compressed: bool = False


@dataclass(frozen=True, slots=True)
class SqlRows:
    """Records that are written as a table for DuckDB, in columns that are the same for every part.

    `names` are the columns of a file that tells them itself, of CSV.
    """

    reader: Reader
    names: tuple[str, ...] | None = None


class View(Protocol):
    """The view that a file is shown in."""

    directory: Path  # for files that are made on the way
    columns: Columns  # the types that are declared
    found: Columns | None  # those of all records of the input, if they are decided
    checks_values: bool  # DuckDB has refused a value of a file that it reads itself: reject such rows

    def reject(self, reader: Reader, number: int, raw: Any, reason: str) -> None:
        """Reject record `number` (from 1) of the reader; in a declared input it raises TaskError (input_invalid)."""

    def plain(self, file: Path) -> Path:
        """The file, or a decompressed copy of it: what DuckDB makes of compressed files depends on their names."""
