"""A file that DuckDB can read: the result of every format's `show`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from services.inputs.csv_dialect import CsvDialect
from services.inputs.reader import Reader


@dataclass(frozen=True, slots=True)
class SqlFile:
    """A file and how DuckDB reads it: as Parquet, JSON lines, a JSON document, or CSV in its dialect.

    `columns`, which CSV needs, are all the columns, each of them text.
    """

    path: Path
    kind: Literal["parquet", "jsonl", "json", "csv"]
    columns: tuple[str, ...] | None = None
    dialect: CsvDialect | None = None


def write_parquet(target: Path, schema: Any, batches: Iterable[Any]) -> SqlFile:
    """Write pyarrow record batches as Parquet, one row group each."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetWriter(target, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return SqlFile(target, "parquet")


class Rewriter(Protocol):
    """Converts a file that DuckDB can't read into one that it can."""

    directory: Path  # directory for converted files

    def plain(self, file: Path) -> Path:
        """The file, or a decompressed copy of it: what DuckDB makes of compressed files depends on their names."""

    def write_json_lines(self, reader: Reader, columns: Sequence[str] | None = None) -> SqlFile:
        """Convert the reader's records (with `columns`: fields of CSV). Unreadable records are rejected."""
