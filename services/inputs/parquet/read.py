"""Parquet, read by pyarrow. Only tasks with Parquet input import it, since it takes most of their memory."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.inputs.reader import BATCH_ROWS, BatchedRows, Reader, by_pyarrow


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """The open pyarrow ParquetFile. Raises TaskError (input_invalid) for unreadable data."""
    import pyarrow.parquet

    with by_pyarrow("Parquet"), pyarrow.parquet.ParquetFile(path) as file:
        yield file


def open_reader(path: Path, format: str, options: Mapping[str, Any]) -> Reader:
    return ParquetRows(path)


class ParquetRows(BatchedRows):
    def batches(self) -> Iterator[Any]:
        if self.path.stat().st_size == 0:  # SQL without input records writes such a file
            return
        with open_parquet(self.path) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS)


def extract(input: Path, *, source: str, numbers: Sequence[int]) -> None:
    """Write a Parquet file with only these row groups of the source, holding one of them in memory at a time."""
    import pyarrow.parquet

    with open_parquet(Path(source)) as file, pyarrow.parquet.ParquetWriter(input, file.schema_arrow) as writer:
        for number in numbers:
            table = file.read_row_group(number)
            writer.write_table(table, row_group_size=max(table.num_rows, 1))


STEPS = {"extract": extract}
