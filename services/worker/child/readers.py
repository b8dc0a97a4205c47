"""Record formats: how the records of a part are read from a file.

A reader walks over the *raw* records of a file (`raws`) and turns each into what the user's function gets (`parse`).
Both steps are apart so that a record that can't be parsed costs only itself, and so that a rejected record is shown
as it was, whatever the function did to it.
"""

import bz2
import codecs
import csv
import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import orjson

from services.contract.task_error import Malformed, TaskError
from services.inputs.arrow.read import ArrowRows
from services.inputs.avro.read import AvroRecords
from services.inputs.csv_dialect import CsvDialect
from services.inputs.parquet.read import ParquetRows


def _open_zstd(path: Path, mode: str) -> BinaryIO:
    import io

    import zstandard

    stream = zstandard.ZstdDecompressor().stream_reader(path.open(mode), read_across_frames=True, closefd=True)
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream), 1 << 17))


_COMPRESSION: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bgz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}
_FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".avro": "avro",
    ".json": "json",
    ".txt": "text",
    ".log": "text",
}

csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is less than what people put into fields


class Reader(Protocol):
    """The records of one file."""

    path: Path

    def raws(self) -> Iterator[Any]: ...
    def parse(self, raw: Any) -> Any:
        """The record; raises Malformed."""

    def show(self, raw: Any) -> Any:
        """The raw record as a JSON value."""

    def offset(self, raw: Any) -> int | None:
        """Where in the file the record that `raws` gave last begins; None if that can't be told."""


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
            f"can't tell the record format of {path.name!r}: its name must end in one of {known} "
            "(and .gz, .bz2, .xz, .zst)",
            retryable=False,
        )
    return found


def open_reader(
    path: Path, format: str | None = None, *, csv: dict[str, Any] | None = None, record_bytes: int | None = None
) -> Reader:
    """A reader of the file in the named format, or in the one its name tells; raises TaskError (input_invalid).

    `csv` says what is unusual about a CSV, `record_bytes` how long each record of the format `fixed` is.
    """
    match format or detect_format(path):
        case "jsonl":
            return JsonLines(path)
        case "text":
            return TextLines(path)
        case "csv" | "tsv" as kind:
            return Csv(path, CsvDialect.of_part(csv, kind))
        case "fixed" if record_bytes is not None:
            return FixedRecords(path, record_bytes)
        case "json":
            return JsonDocument(path)
        case "parquet":
            return ParquetRows(path)
        case "arrow":
            return ArrowRows(path)
        case "avro":
            return AvroRecords(path)
        case unknown:
            raise TaskError("input_invalid", f"there is no record format {unknown!r}", retryable=False)


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, _COMPRESSION.get(path.suffix.lower(), open)(path, "rb"))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines with their ends; a line ends at \\n only, and a byte order mark is no part of the first."""
    with file:
        for line in file:
            yield line.removeprefix(codecs.BOM_UTF8)
            break
        yield from file


def _position(path: Path, file: BinaryIO, size: int) -> int | None:
    """Where in the file the `size` bytes begin that were read last; None if it is compressed."""
    if path.suffix.lower() in _COMPRESSION:
        return None
    return (path.stat().st_size if file.closed else file.tell()) - size  # closed as soon as all of it has been read


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
        self._file = _open(self.path)
        return _lines(self._file)

    def parse(self, raw: bytes) -> Any:
        text = _decode(raw)
        return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")

    def show(self, raw: bytes) -> Any:
        return raw.decode(errors="backslashreplace").rstrip("\r\n")

    def offset(self, raw: bytes) -> int | None:
        return _position(self.path, self._file, len(raw))


class JsonLines(TextLines):
    """Each line that is not blank is a record: any JSON value."""

    def raws(self) -> Iterator[bytes]:
        return (line for line in super().raws() if not line.isspace())

    def parse(self, raw: bytes) -> Any:
        return _parse_json(raw)

    def show(self, raw: bytes) -> Any:
        try:
            return self.parse(raw)
        except Malformed:
            return super().show(raw)


def holds_nothing(path: Path) -> bool:
    """No bytes, or the document `null`: what a task that made nothing leaves to the next."""
    size = path.stat().st_size
    return size == 0 or (size == 4 and path.suffix == ".json" and path.read_bytes() == b"null")


class JsonDocument(JsonLines):
    """The whole file is one record."""

    def raws(self) -> Iterator[bytes]:
        if holds_nothing(self.path):
            return
        with _open(self.path) as file:
            yield file.read().removeprefix(codecs.BOM_UTF8)

    def offset(self, raw: bytes) -> int | None:
        return None


class FixedRecords:
    """All records are of one length: bytes, which the function reads as it knows how (they may be EBCDIC)."""

    def __init__(self, path: Path, record_bytes: int) -> None:
        self.path = path
        self._record_bytes = record_bytes

    def raws(self) -> Iterator[bytes]:
        with _open(self.path) as self._file:
            while record := self._file.read(self._record_bytes):
                yield record

    def parse(self, raw: bytes) -> Any:
        if len(raw) < self._record_bytes:
            raise Malformed(f"the record has {len(raw)} bytes, record_bytes is {self._record_bytes}")
        return raw

    def show(self, raw: bytes) -> Any:
        return raw.decode(errors="backslashreplace")

    def offset(self, raw: bytes) -> int | None:
        return _position(self.path, self._file, len(raw))


class Csv:
    """The first row that is not empty names the columns; each later one is a record: a dict of str.

    Without a header, a record is a list of str.
    """

    def __init__(self, path: Path, dialect: CsvDialect) -> None:
        self.path = path
        self.columns: list[str] = []
        self._dialect = dialect
        self._fault: Malformed | None = None
        self._held_bytes = 0  # of the record's lines

    def raws(self) -> Iterator[list[str]]:
        rows = csv.reader(
            self._text_lines(),
            delimiter=self._dialect.delimiter,
            quotechar=self._dialect.quote,
            quoting=csv.QUOTE_MINIMAL if self._dialect.quote else csv.QUOTE_NONE,
            escapechar=self._dialect.escape,
            strict=True,  # a quote that never closes must not pass for a record
        )
        if self._dialect.header:
            self._read_columns(rows)
        while True:
            self._fault, self._held, self._held_bytes = None, "", 0
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                row, self._fault = [self._held.rstrip("\r\n")], Malformed(f"not CSV: {error}")
            if row:
                yield row

    def _read_columns(self, rows: Iterator[list[str]]) -> None:
        try:
            self.columns = next(filter(None, rows), [])
        except csv.Error as error:
            raise TaskError("input_invalid", f"the CSV header can't be read: {error}", retryable=False) from None
        if self._fault is not None:
            raise TaskError("input_invalid", f"the CSV header is {self._fault}", retryable=False)
        if len(set(self.columns)) < len(self.columns):
            twice = next(name for name in self.columns if self.columns.count(name) > 1)
            raise TaskError("input_invalid", f"the CSV header names the column {twice!r} twice", retryable=False)

    def _text_lines(self) -> Iterator[str]:
        self._file = _open(self.path)
        for line in _lines(self._file):
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                text = line.decode(errors="backslashreplace")
                at = self._held_bytes + error.start
                self._fault = Malformed(f"not UTF-8: byte {line[error.start]:#04x} at byte {at} of the record")
            self._held = text
            self._held_bytes += len(line)
            yield text

    def parse(self, raw: list[str]) -> Any:
        if self._fault is not None:
            raise self._fault
        if not self._dialect.header:
            return raw
        if len(raw) != len(self.columns):
            raise Malformed(f"the row has {len(raw)} fields, the header has {len(self.columns)}")
        return dict(zip(self.columns, raw, strict=True))

    def show(self, raw: list[str]) -> Any:
        return dict(zip(self.columns, raw, strict=True)) if len(raw) == len(self.columns) else raw

    def offset(self, raw: list[str]) -> int | None:
        return _position(self.path, self._file, self._held_bytes)
