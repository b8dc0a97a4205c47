"""ORC, read by pyarrow; only tasks with such input import it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.inputs.reader import BATCH_ROWS, BatchedRows, Reader, by_pyarrow


@contextmanager
def open_orc(path: Path) -> Iterator[Any]:
    """The open pyarrow ORCFile. Raises TaskError (input_invalid) for unreadable data."""
    import pyarrow.orc

    with by_pyarrow("ORC"), path.open("rb") as file:
        yield pyarrow.orc.ORCFile(file)


def open_reader(path: Path, format: str, options: Mapping[str, Any]) -> Reader:
    return OrcRows(path)


class OrcRows(BatchedRows):
    format = "ORC"

    def batches(self, batch_rows: int = BATCH_ROWS) -> Iterator[Any]:
        if self.path.stat().st_size == 0:  # Hive writes a file without rows like this
            return
        with open_orc(self.path) as reader:
            self.open(reader.schema)
            for number in range(reader.nstripes):
                stripe = reader.read_stripe(number)
                yield from (stripe.slice(start, batch_rows) for start in range(0, stripe.num_rows, batch_rows))


STEPS: dict[str, Callable[..., None]] = {}
