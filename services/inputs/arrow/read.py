"""Arrow IPC files (Feather version 2), read by pyarrow; only tasks with such input import it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.inputs.arrow_values import check_structure
from services.inputs.magic import HEAD_BYTES, is_arrow_stream
from services.inputs.reader import BATCH_ROWS, BatchedRows, Reader, by_pyarrow


@contextmanager
def open_arrow(path: Path) -> Iterator[Any]:
    """The open pyarrow RecordBatchFileReader. Raises TaskError (input_invalid) for unreadable data."""
    import pyarrow
    import pyarrow.ipc

    with by_pyarrow("Arrow"), pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_file(source) as reader:
        yield reader


@contextmanager
def open_batches(path: Path) -> Iterator[tuple[Any, Iterator[Any]]]:
    """The schema and the record batches of an Arrow file or stream. Raises TaskError (input_invalid)."""
    import pyarrow
    import pyarrow.ipc

    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if is_arrow_stream(head):
        with by_pyarrow("Arrow"), pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as stream:
            yield stream.schema, iter(stream)
    else:
        with open_arrow(path) as reader:
            yield reader.schema, map(reader.get_batch, range(reader.num_record_batches))


def open_reader(path: Path, format: str, options: Mapping[str, Any]) -> Reader:
    return ArrowRows(path)


class ArrowRows(BatchedRows):
    format = "Arrow"

    def batches(self, batch_rows: int = BATCH_ROWS) -> Iterator[Any]:
        if self.path.stat().st_size == 0:
            return
        with open_batches(self.path) as (schema, batches):
            self.open(schema)
            for batch in batches:
                check_structure(batch)
                yield from (batch.slice(start, batch_rows) for start in range(0, batch.num_rows, batch_rows))


def extract(input: Path, *, source: str, numbers: Sequence[int]) -> None:
    """Write an Arrow file with only these record batches of the source."""
    import pyarrow.ipc

    with open_arrow(Path(source)) as reader, pyarrow.ipc.new_file(str(input), reader.schema) as writer:
        for number in numbers:
            writer.write_batch(reader.get_batch(number))


STEPS = {"extract": extract}
