"""A file as DuckDB can read it: what the `show` of every format comes to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from services.inputs.csv_dialect import CsvDialect
from services.inputs.reader import Reader


@dataclass(frozen=True, slots=True)
class SqlFile:
    """A file and how DuckDB reads it: as Parquet, JSON lines, a JSON document, or CSV in its dialect.

    With `columns`, which CSV needs, these are all there are, and all of them are text.
    """

    path: Path
    kind: Literal["parquet", "jsonl", "json", "csv"]
    columns: tuple[str, ...] | None = None
    dialect: CsvDialect | None = None


def write_parquet(target: Path, schema: Any, batches: Iterable[Any]) -> SqlFile:
    """Record batches of pyarrow's as Parquet, a row group each."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetWriter(target, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return SqlFile(target, "parquet")


class Rewriter(Protocol):
    """Makes of a file that DuckDB can't read one that it can."""

    directory: Path  # where such files go

    def write_json_lines(self, reader: Reader, columns: Sequence[str] | None = None) -> SqlFile:
        """The reader's records; with `columns`, fields of CSV. Those that can't be read are rejected."""
