"""Arrow IPC files (Feather version 2), by pyarrow, which only tasks with such input import."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.contract.task_error import TaskError
from services.inputs.parquet.read import BATCH_ROWS, BatchedRows


@contextmanager
def open_arrow(path: Path) -> Iterator[Any]:
    """The open pyarrow RecordBatchFileReader; what can't be read of it raises TaskError (input_invalid)."""
    import pyarrow
    import pyarrow.ipc

    try:
        with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_file(source) as reader:
            yield reader
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the file's
        raise TaskError("input_invalid", f"the Arrow file can't be read: {error}", retryable=False) from None


class ArrowRows(BatchedRows):
    def batches(self) -> Iterator[Any]:
        with open_arrow(self.path) as reader:
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                yield from (batch.slice(start, BATCH_ROWS) for start in range(0, batch.num_rows, BATCH_ROWS))


def extract_record_batches(source: Path, batches: Sequence[int], target: Path) -> None:
    """Write an Arrow file with just these record batches of the source."""
    import pyarrow.ipc

    with open_arrow(source) as reader, pyarrow.ipc.new_file(str(target), reader.schema) as writer:
        for number in batches:
            writer.write_batch(reader.get_batch(number))


def write_as_parquet(source: Path, target: Path) -> Path:
    """The same rows and columns as Parquet, a row group for each record batch."""
    import pyarrow.parquet

    with open_arrow(source) as reader, pyarrow.parquet.ParquetWriter(target, reader.schema) as writer:
        for number in range(reader.num_record_batches):
            writer.write_batch(reader.get_batch(number))
    return target
