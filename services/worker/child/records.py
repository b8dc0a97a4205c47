"""A record function applied to each record of a part: results to one file, rejected records to another."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from services.contract.task_error import Malformed, describe
from services.inputs.columns import Columns
from services.inputs.reader import Reader
from services.inputs.registry import FORMATS
from services.inputs.typed_reader import TypedReader
from services.worker.child.functions import load_function
from services.worker.child.readers import detect_format, open_reader
from services.worker.child.rejects import Rejects
from services.worker.child.writers import Writer, open_writer


@dataclass(slots=True)
class Counts:
    """records_in + records_added = records_out + records_rejected + records_filtered.

    Added counts the records of lists beyond their first; filtered counts the records that became nothing.
    """

    records_in: int = 0
    records_out: int = 0
    records_rejected: int = 0
    records_filtered: int = 0
    records_added: int = 0
    header_bytes: int = 0


def _files(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]


def open_records(path: Path, format: str | None, options: Mapping[str, Any], columns: Columns) -> Reader:
    """A reader of the file, by its name if no format is given. Values of `columns` are converted to their types."""
    name = format or detect_format(path)
    reader = open_reader(path, name, **options)
    return TypedReader(reader, columns, text=FORMATS[name].text_fields) if columns else reader


class _Origin(NamedTuple):
    """A record as it was read, with all that is needed to reject it now or later."""

    reader: Reader
    raw: Any
    number: int
    offset: int | None


class _Application:
    """One pass over a part: the current record, and the counts so far."""

    def __init__(self, rejects: Rejects) -> None:
        self.counts = Counts()
        self.reader: Reader
        self.raw: Any = None
        self._rejects = rejects

    def origin(self) -> _Origin:
        return _Origin(self.reader, self.raw, self.counts.records_in, self.reader.offset(self.raw))

    def reject(self, reason: str) -> None:
        self._reject(self.origin(), reason)

    def take_back(self, origin: _Origin, reason: str, written: int) -> None:
        """Reject a record; `written` of its results were counted as written."""
        self.counts.records_out -= written
        self.counts.records_added -= written - 1
        self._reject(origin, reason)

    def _reject(self, origin: _Origin, reason: str) -> None:
        self.counts.records_rejected += 1
        reader = origin.reader
        self._rejects.add(reader.path, origin.number, origin.offset, reason, reader.show(origin.raw))

    def apply(self, function: Callable[..., Any], params: Mapping[str, Any], writer: Writer) -> None:
        """Apply the function to every record of the reader."""
        counts, parse, write = self.counts, self.reader.parse, writer.write
        for raw in self.reader.raws():
            self.raw = raw
            counts.records_in += 1
            try:
                result = function(parse(raw), **params)
                if result is None:
                    counts.records_filtered += 1
                elif type(result) is list:
                    self._write_list(result, writer)
                else:
                    write(result)
                    counts.records_out += 1
            except MemoryError:
                raise
            except Malformed as error:
                self.reject(str(error))
            except Exception as error:
                self.reject(describe(error))

    def _write_list(self, records: list[Any], writer: Writer) -> None:
        if not records:
            self.counts.records_filtered += 1
            return
        writer.write_all(records)
        self.counts.records_out += len(records)
        self.counts.records_added += len(records) - 1


def apply_to_records(
    reference: str,
    *,
    input: Path,
    format: str | None,
    options: Mapping[str, Any],
    columns: Columns,
    output: Path,
    output_format: str,
    rejected: Rejects,
    params: Mapping[str, Any],
) -> dict[str, int]:
    """Apply the function to every record of the file, or of each file of the directory; returns the Counts.

    Values of `columns` are converted to their types. A record is rejected when it can't be parsed, when the function
    raises, or when its result can't be written.
    """
    function = load_function(reference)
    application = _Application(rejected)
    writer = open_writer(output_format, output, application.origin, application.take_back)
    with closing(writer):
        for path in _files(input):
            with rejected.naming(path):
                application.reader = open_records(path, format, options, columns)
                application.apply(function, params, writer)
    application.counts.header_bytes = writer.header_bytes
    return asdict(application.counts)
