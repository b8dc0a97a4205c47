"""Readers of text lines, JSON lines, a JSON document, and records of one length."""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.contract.task_error import Malformed
from services.inputs.json_text import decode, parse_json
from services.inputs.lines.files import open_file, position, read_lines, reading
from services.inputs.reader import holds_nothing
from services.inputs.record_size import RECORD_BYTES_MAX, LongRecord, check_size, size_of


class TextLines:
    """Each line is a record: a str without its line end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def raws(self) -> Iterator[bytes]:
        self._file = open_file(self.path)
        return read_lines(self._file)

    def parse(self, raw: bytes) -> Any:
        check_size(size_of(raw))
        text = decode(raw)
        return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")

    def show(self, raw: bytes) -> Any:
        return raw.decode(errors="backslashreplace").rstrip("\r\n")

    def offset(self, raw: bytes) -> int | None:
        return position(self.path, self._file, size_of(raw))


class JsonLines(TextLines):
    """Each line that is not blank is a record: any JSON value."""

    def raws(self) -> Iterator[bytes]:
        return (line for line in super().raws() if not line.isspace())

    def parse(self, raw: bytes) -> Any:
        check_size(size_of(raw))
        return parse_json(raw)

    def show(self, raw: bytes) -> Any:
        try:
            return self.parse(raw)
        except ValueError:  # Malformed, or a number of more digits than Python reads
            return super().show(raw)


class JsonDocument(JsonLines):
    """The whole file is one record; but many programs write lines of JSON under this name, and each is a record."""

    is_one_record = True  # a document is no larger than a record may be

    def raws(self) -> Iterator[bytes]:
        if holds_nothing(self.path):
            return
        with reading(open_file(self.path)) as file:
            begin = file.read(RECORD_BYTES_MAX + 1).removeprefix(codecs.BOM_UTF8)
        if _has_lines(begin):
            yield from super().raws()
        elif len(begin) <= RECORD_BYTES_MAX:
            yield begin
        elif self.is_one_record:
            yield LongRecord.beginning(begin, len(begin))
        else:
            with reading(open_file(self.path)) as file:
                yield file.read().removeprefix(codecs.BOM_UTF8)

    def offset(self, raw: bytes) -> int | None:
        return None


def _has_lines(begin: bytes) -> bool:
    """Whether the first line is JSON, and another line follows."""
    lines = (line for line in io.BytesIO(begin) if not line.isspace())
    first, second = next(lines, b""), next(lines, None)
    return second is not None and _is_json(first)


def _is_json(line: bytes) -> bool:
    try:
        parse_json(line)
    except Malformed:
        return False
    return True


class FixedRecords:
    """All records have the same length. A record is bytes, which the function decodes (they may be EBCDIC)."""

    def __init__(self, path: Path, record_bytes: int) -> None:
        self.path = path
        self._record_bytes = record_bytes

    def raws(self) -> Iterator[bytes]:
        self._file = self.path.open("rb")  # a part of an object, never compressed; records may begin with any bytes
        with self._file:
            while record := self._file.read(self._record_bytes):
                yield record

    def parse(self, raw: bytes) -> Any:
        if len(raw) < self._record_bytes:
            raise Malformed(f"the record has {len(raw)} bytes, record_bytes is {self._record_bytes}")
        return raw

    def show(self, raw: bytes) -> Any:
        return raw.decode(errors="backslashreplace")

    def offset(self, raw: bytes) -> int | None:
        return position(self.path, self._file, len(raw))
