"""Writers: how records are written to a file."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from services.contract.task_error import Malformed
from services.inputs.json_text import encode_json
from services.worker.child.parquet_writer import ParquetWriter, Refuse

_BUFFER_BYTES = 1 << 20


class Writer(Protocol):
    """Writes records to an output file, which starts with a header of `header_bytes` bytes."""

    header_bytes: int

    def write(self, record: Any) -> None:
        """Raises Malformed if the format can't hold the record."""

    def write_all(self, records: Sequence[Any]) -> None:
        """Write all of the records or none. Raises Malformed."""

    def close(self) -> None: ...


def open_writer(format: str, path: Path, origin: Callable[[], Any], refuse: Refuse) -> Writer:
    """A writer of a new file. The functions serve a format that refuses records late (see ParquetWriter)."""
    match format:
        case "csv":
            return CsvWriter(path)
        case "parquet":
            return ParquetWriter(path, origin, refuse)
        case _:
            return JsonlWriter(path)


class JsonlWriter:
    header_bytes = 0

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=_BUFFER_BYTES)

    def write(self, record: Any) -> None:
        self._file.write(encode_json(record) + b"\n")

    def write_all(self, records: Sequence[Any]) -> None:
        self._file.write(b"".join([encode_json(record) + b"\n" for record in records]))

    def close(self) -> None:
        self._file.close()


class CsvWriter:
    """The columns are the keys of the first record; every other record must have exactly these."""

    header_bytes = 0

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=_BUFFER_BYTES)
        self._columns: dict[str, None] = {}
        self._buffer = io.StringIO(newline="")
        self._writer = csv.writer(self._buffer)  # its line end makes it quote fields with \r or \n

    def write(self, record: Any) -> None:
        self.write_all((record,))

    def write_all(self, records: Sequence[Any]) -> None:
        if not records:
            return
        columns = self._columns or self._columns_of(records[0])
        body = b"".join([self._encode(record, columns) for record in records])
        if not self._columns:
            header = self._row(list(columns))
            self._columns, self.header_bytes = columns, len(header)
            body = header + body
        self._file.write(body)

    def close(self) -> None:
        self._file.close()

    def _columns_of(self, record: Any) -> dict[str, None]:
        return dict.fromkeys(record) if isinstance(record, Mapping) else {}

    def _encode(self, record: Any, columns: Mapping[str, None]) -> bytes:
        if not isinstance(record, Mapping):
            raise Malformed(f"a CSV record must be a dict, this is of type {type(record).__name__}")
        if record.keys() != columns.keys():
            raise Malformed(f"the record has the keys {list(record)}, the first one had {list(columns)}")
        return self._row([record[name] for name in columns])

    def _row(self, fields: list[Any]) -> bytes:
        self._buffer.seek(0)
        self._buffer.truncate()
        try:
            self._writer.writerow(fields)
            return self._buffer.getvalue().removesuffix("\r\n").encode() + b"\n"
        except (csv.Error, UnicodeEncodeError) as error:
            raise Malformed(f"can't be written as CSV: {error}") from None
