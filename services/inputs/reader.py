"""What the `read` of every format is made of: readers of records, and steps that come before.

A reader walks over the *raw* records of a file (`raws`) and turns each into what the user's function gets (`parse`).
Both steps are apart so that a record that can't be parsed costs only itself, and so that a rejected record is shown
as it was, whatever the function did to it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypedDict

from services.contract.task_error import TaskError

BATCH_ROWS = 1024


class Step(TypedDict):
    """What a child does to an input before its processor sees it: one of the STEPS of a format, by its name."""

    format: str
    step: str
    arguments: dict[str, Any]  # JSON values, for the keywords of the function


class Reader(Protocol):
    """The records of one file."""

    path: Path

    def raws(self) -> Iterator[Any]:
        """Raises TaskError (input_invalid) for a file that can't be read on."""

    def parse(self, raw: Any) -> Any:
        """The record; raises Malformed."""

    def show(self, raw: Any) -> Any:
        """The raw record as a JSON value."""

    def offset(self, raw: Any) -> int | None:
        """Where in the file the record that `raws` gave last begins; None if that can't be told."""


@contextmanager
def by_pyarrow(format: str) -> Iterator[None]:
    """What pyarrow can't read of a file raises TaskError (input_invalid)."""
    import pyarrow

    try:
        yield
    except MemoryError:
        raise
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the file's
        raise TaskError("input_invalid", f"the {format} file can't be read: {error}", retryable=False) from None


class BatchedRows:
    """Each row of a file of pyarrow's record batches is a record: a dict by column."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def batches(self) -> Iterator[Any]:
        """Those of the file, of at most BATCH_ROWS rows."""
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


def holds_nothing(path: Path) -> bool:
    """No bytes, or the document `null`: what a task that made nothing leaves to the next."""
    size = path.stat().st_size
    return size == 0 or (size == 4 and path.suffix == ".json" and path.read_bytes() == b"null")
