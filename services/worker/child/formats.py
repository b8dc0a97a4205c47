"""Record formats: how the records of a part are read from a file, and written to one.

A reader walks over the *raw* records of a file (`raws`) and turns each into what the user's function gets (`parse`).
Both steps are apart so that a record that can't be parsed costs only itself, and so that a rejected record is shown
as it was, whatever the function did to it.
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast
from uuid import UUID

import orjson

from services.worker.child.errors import TaskError
from services.worker.child.parquet import ParquetRows

_COMPRESSION: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".json": "json",
    ".txt": "text",
    ".log": "text",
}

csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is less than what people put into fields


class Malformed(ValueError):
    """A record can't be read or written; the message is the reason for its rejection."""


class Reader(Protocol):
    """The records of one file."""

    def raws(self) -> Iterator[Any]: ...
    def parse(self, raw: Any) -> Any:
        """The record; raises Malformed."""

    def show(self, raw: Any) -> Any:
        """The raw record as a JSON value."""


def detect_format(path: Path) -> str:
    """The record format that a file's name tells; raises TaskError (input_invalid)."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSION:
        suffixes.pop()
    found = _FORMATS.get(suffixes[-1] if suffixes else "")
    if found is None:
        known = ", ".join(_FORMATS)
        raise TaskError(
            "input_invalid",
            f"can't tell the record format of {path.name!r}: its name must end in one of {known} (and .gz, .bz2, .xz)",
            retryable=False,
        )
    return found


def open_reader(path: Path, format: str | None = None) -> Reader:
    """A reader of the file in the named format, or in the one its name tells; raises TaskError (input_invalid)."""
    match format or detect_format(path):
        case "jsonl":
            return JsonLines(path)
        case "text":
            return TextLines(path)
        case "csv":
            return Csv(path, ",")
        case "tsv":
            return Csv(path, "\t")
        case "json":
            return JsonDocument(path)
        case "parquet":
            return ParquetRows(path)
        case unknown:
            raise TaskError("input_invalid", f"there is no record format {unknown!r}", retryable=False)


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, _COMPRESSION.get(path.suffix.lower(), open)(path, "rb"))


def _lines(path: Path) -> Iterator[bytes]:
    """Lines with their ends; a line ends at \\n only, and a byte order mark is no part of the first."""
    with _open(path) as file:
        for line in file:
            yield line.removeprefix(codecs.BOM_UTF8)
            break
        yield from file


def _decode(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8: byte {raw[error.start]:#04x} at byte {error.start} of the record") from None


def _refuse_constant(name: str) -> None:
    raise Malformed(f"not JSON: {name} is no JSON number")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19  # orjson makes a float of an integer of more than 64 bits


def _parse_json(raw: bytes) -> Any:
    """By orjson, several times as fast; what it refuses or rounds, the standard reader reads. Raises Malformed."""
    if _LONG_NUMBER not in raw.translate(_DIGITS_AS_ZEROS):
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError:
            pass
    text = _decode(raw)
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise Malformed(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise Malformed("not JSON that can be read: nested too deeply") from None


class TextLines:
    """Each line is a record: a str without its line end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def raws(self) -> Iterator[bytes]:
        return _lines(self.path)

    def parse(self, raw: bytes) -> Any:
        text = _decode(raw)
        return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")

    def show(self, raw: bytes) -> Any:
        return raw.decode(errors="backslashreplace").rstrip("\r\n")


class JsonLines(TextLines):
    """Each line that is not blank is a record: any JSON value."""

    def raws(self) -> Iterator[bytes]:
        return (line for line in _lines(self.path) if not line.isspace())

    def parse(self, raw: bytes) -> Any:
        return _parse_json(raw)

    def show(self, raw: bytes) -> Any:
        try:
            return self.parse(raw)
        except Malformed:
            return super().show(raw)


class JsonDocument(JsonLines):
    """The whole file is one record."""

    def raws(self) -> Iterator[bytes]:
        with _open(self.path) as file:
            yield file.read().removeprefix(codecs.BOM_UTF8)


class Csv:
    """The first row names the columns; each later row that is not empty is a record: a dict of str."""

    def __init__(self, path: Path, delimiter: str) -> None:
        self.path = path
        self.delimiter = delimiter
        self.columns: list[str] = []
        self._fault: Malformed | None = None

    def raws(self) -> Iterator[list[str]]:
        # Strict: a quote that never closes (a field with a newline, cut by the split) must not pass for a record.
        rows = csv.reader(self._text_lines(), delimiter=self.delimiter, strict=True)
        try:
            self.columns = next(rows, [])
        except csv.Error as error:
            raise TaskError("input_invalid", f"the CSV header can't be read: {error}", retryable=False) from None
        if self._fault is not None:
            raise TaskError("input_invalid", f"the CSV header is {self._fault}", retryable=False)
        if len(set(self.columns)) < len(self.columns):
            twice = next(name for name in self.columns if self.columns.count(name) > 1)
            raise TaskError("input_invalid", f"the CSV header names the column {twice!r} twice", retryable=False)
        while True:
            self._fault, self._held = None, ""
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                row, self._fault = [self._held.rstrip("\r\n")], Malformed(f"not CSV: {error}")
            if row:
                yield row

    def _text_lines(self) -> Iterator[str]:
        for line in _lines(self.path):
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                text = line.decode(errors="backslashreplace")
                self._fault = Malformed(f"not UTF-8: byte {line[error.start]:#04x}")
            self._held = text
            yield text

    def parse(self, raw: list[str]) -> Any:
        if self._fault is not None:
            raise self._fault
        if len(raw) != len(self.columns):
            raise Malformed(f"the row has {len(raw)} fields, the header has {len(self.columns)}")
        return dict(zip(self.columns, raw, strict=True))

    def show(self, raw: list[str]) -> Any:
        return dict(zip(self.columns, raw, strict=True)) if len(raw) == len(self.columns) else raw


class Writer(Protocol):
    """Encodes records for an output file; `header_bytes` is the length of what the first one began with."""

    header_bytes: int

    def encode(self, record: Any) -> bytes:
        """Raises Malformed if the format can't hold the record."""


def open_writer(format: str) -> Writer:
    return CsvWriter() if format == "csv" else JsonlWriter()


def _plain(value: Any) -> Any:
    """What JSON has no type for but Parquet and Python do."""
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (Decimal, UUID, Path)):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__} can't be written as JSON")


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)


# Of these types orjson would write more than the standard writer does.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS


def encode_json(value: Any) -> bytes:
    """Compact JSON in UTF-8; raises Malformed.

    By orjson where it writes what the standard writer does: it writes null for a number that is none.
    """
    try:
        encoded = orjson.dumps(value, _plain, _OPTIONS)
        if b"null" not in encoded:
            return encoded
    except orjson.JSONEncodeError:
        pass
    try:
        return _encoder.encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Malformed(f"can't be written as JSON: {error}") from None


class JsonlWriter:
    header_bytes = 0

    def encode(self, record: Any) -> bytes:
        return encode_json(record) + b"\n"


class CsvWriter:
    """Columns are the keys of the first record; every other record must have just these."""

    header_bytes = 0

    def __init__(self) -> None:
        self._columns: dict[str, None] = {}
        self._buffer = io.StringIO(newline="")
        self._writer = csv.writer(self._buffer)  # its line end makes it quote fields with \r or \n

    def encode(self, record: Any) -> bytes:
        if not isinstance(record, Mapping):
            raise Malformed(f"a CSV record must be a dict, this is of type {type(record).__name__}")
        first = not self._columns
        columns = dict.fromkeys(record) if first else self._columns
        if record.keys() != columns.keys():
            raise Malformed(f"the record has the keys {list(record)}, the first one had {list(columns)}")
        body = self._row([record[name] for name in columns])
        if not first:
            return body
        header = self._row(list(columns))
        self._columns, self.header_bytes = columns, len(header)
        return header + body

    def _row(self, fields: list[Any]) -> bytes:
        self._buffer.seek(0)
        self._buffer.truncate()
        try:
            self._writer.writerow(fields)
            return self._buffer.getvalue().removesuffix("\r\n").encode() + b"\n"
        except (csv.Error, UnicodeEncodeError) as error:
            raise Malformed(f"can't be written as CSV: {error}") from None
