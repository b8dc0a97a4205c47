"""The interface of every format's `read` module: readers of records, and preparing steps.

A reader walks over the *raw* records of a file (`raws`) and turns each into what the user's function gets (`parse`).
The two steps are separate, so that an unparsable record affects only itself, and a rejected record is shown as it was,
whatever the function did to it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypedDict

from services.contract.task_error import Malformed, TaskError
from services.inputs.arrow_names import names_in
from services.inputs.arrow_values import rows, shown_row
from services.inputs.record_size import RECORD_BYTES_MAX, check_size

BATCH_ROWS = 1024


class Step(TypedDict):
    """A step by which a child prepares an input for its processor: one of the STEPS of a format, by name."""

    format: str
    step: str
    arguments: dict[str, Any]  # keyword arguments of the function; JSON values


class Reader(Protocol):
    """The records of one file."""

    path: Path

    def raws(self) -> Iterator[Any]:
        """Yields raw records. Raises TaskError (input_invalid) where the file becomes unreadable."""

    def parse(self, raw: Any) -> Any:
        """The record; raises Malformed."""

    def show(self, raw: Any) -> Any:
        """The raw record as a JSON value."""

    def offset(self, raw: Any) -> int | None:
        """The position in the file of the last record from `raws`; None if it is unknown."""


@contextmanager
def by_pyarrow(format: str) -> Iterator[None]:
    """Turns pyarrow's read errors into TaskError (input_invalid)."""
    import pyarrow

    try:
        yield
    except MemoryError:
        raise
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a fault of the disk, not of the file
        raise TaskError("input_invalid", f"the {format} file can't be read: {error}", retryable=False) from None


class BatchedRows:
    """Each row of a file of pyarrow's record batches is a record: a dict by column.

    A row with a value that Python can't hold is Malformed when it is parsed.
    """

    format: ClassVar[str]  # as its users know it

    def __init__(self, path: Path) -> None:
        self.path = path
        self.schema: Any = None  # and the columns' names: once the file is open
        self.names: list[str] = []

    def batches(self, batch_rows: int = BATCH_ROWS) -> Iterator[Any]:
        """The file's record batches, with at most that number of rows each; their structure is sound."""
        raise NotImplementedError

    def open(self, schema: Any) -> None:
        """Keep the file's schema. Raises TaskError (input_invalid) for a name given twice."""
        self.schema, self.names = schema, names_in(self.format, schema)

    def raws(self) -> Iterator[Any]:
        for batch in self.batches():
            with by_pyarrow(self.format):
                found = rows(batch, self.names)
            may_be_long = batch.get_total_buffer_size() > RECORD_BYTES_MAX
            for index, row in enumerate(found):
                yield batch, index, _checked(row) if may_be_long else row

    def parse(self, raw: Any) -> Any:
        if isinstance(raw[2], Malformed):
            raise raw[2]
        return raw[2]

    def show(self, raw: Any) -> Any:
        batch, index, _ = raw
        return shown_row(batch, self.names, index)

    def offset(self, raw: Any) -> int | None:
        return None


def _checked(row: Any) -> Any:
    """The row, or Malformed in its place if it is too long."""
    try:
        check_size(_text_bytes(row))
    except Malformed as error:
        return error
    return row


def _text_bytes(value: Any) -> int:
    """About the bytes that the text in a value takes: what else a row holds is small."""
    match value:
        case str() | bytes():
            return len(value)
        case dict():
            return sum(map(_text_bytes, value.values()))
        case list():
            return sum(map(_text_bytes, value))
    return 0


def holds_nothing(path: Path) -> bool:
    """Whether the file is empty or the document `null`, which a task without output leaves to the next."""
    size = path.stat().st_size
    return size == 0 or (size == 4 and path.suffix == ".json" and path.read_bytes() == b"null")
