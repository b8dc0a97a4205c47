"""Parquet, by pyarrow, which only tasks with Parquet input import: it is most of their memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.contract.task_error import TaskError

BATCH_ROWS = 1024


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """The open pyarrow ParquetFile; what can't be read of it raises TaskError (input_invalid)."""
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the file's
        raise TaskError("input_invalid", f"the Parquet file can't be read: {error}", retryable=False) from None


class BatchedRows:
    """Each row of a file of record batches is a record: a dict by column."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def batches(self) -> Iterator[Any]:
        """Those of the file, cut small."""
        raise NotImplementedError

    def raws(self) -> Iterator[Any]:
        for batch in self.batches():
            for index, row in enumerate(batch.to_pylist()):
                yield batch, index, row

    def parse(self, raw: Any) -> Any:
        return raw[2]

    def show(self, raw: Any) -> Any:
        batch, index, _ = raw
        return batch.slice(index, 1).to_pylist()[0]

    def offset(self, raw: Any) -> int | None:
        return None


class ParquetRows(BatchedRows):
    def batches(self) -> Iterator[Any]:
        if self.path.stat().st_size == 0:  # SQL that had no records before it leaves such a file
            return
        with open_parquet(self.path) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS)


def extract_row_groups(source: Path, row_groups: Sequence[int], target: Path) -> None:
    """Write a Parquet file with just these row groups of the source; one of them is in memory at a time."""
    import pyarrow.parquet

    with open_parquet(source) as file, pyarrow.parquet.ParquetWriter(target, file.schema_arrow) as writer:
        for row_group in row_groups:
            table = file.read_row_group(row_group)
            writer.write_table(table, row_group_size=max(table.num_rows, 1))
