"""Parquet, read by pyarrow. Only tasks with Parquet input import it, since it takes most of their memory."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.contract.task_error import Malformed
from services.inputs.arrow_values import shown_row
from services.inputs.parquet.int96 import exact, int96_columns, rows_in_nanoseconds
from services.inputs.reader import BATCH_ROWS, BatchedRows, Reader, by_pyarrow


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """The open pyarrow ParquetFile. Raises TaskError (input_invalid) for unreadable data."""
    import pyarrow.parquet

    with by_pyarrow("Parquet"), pyarrow.parquet.ParquetFile(path, coerce_int96_timestamp_unit="us") as file:
        yield file


def open_reader(path: Path, format: str, options: Mapping[str, Any]) -> Reader:
    return ParquetRows(path)


class ParquetRows(BatchedRows):
    format = "Parquet"

    def batches(self, batch_rows: int = BATCH_ROWS) -> Iterator[Any]:
        if self.path.stat().st_size == 0:  # SQL without input records writes such a file
            return
        with open_parquet(self.path) as file:
            self.open(file.schema_arrow)
            self._int96 = int96_columns(file)
            yield from file.iter_batches(batch_size=batch_rows)

    def raws(self) -> Iterator[Any]:
        """With timestamps of type INT96, a raw record also has these columns in nanoseconds."""
        wrapped: Iterator[Any] | None = None
        for batch, index, row in super().raws():
            if not self._int96:
                yield batch, index, row
                continue
            wrapped = wrapped or rows_in_nanoseconds(self.path, self._int96, BATCH_ROWS)
            digits = next(wrapped)
            yield batch, index, row if isinstance(row, Malformed) else exact(row, digits), digits

    def show(self, raw: Any) -> Any:
        batch, index, _, *digits = raw
        shown = shown_row(batch, self.names, index)
        return exact(shown, *digits) if digits else shown


STEPS: dict[str, Callable[..., None]] = {}
