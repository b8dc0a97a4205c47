"""Readers of text lines, JSON lines, a JSON document, and records of one length."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from services.contract.task_error import Malformed
from services.inputs.lines.files import open_file, position, read_lines, reading
from services.inputs.reader import holds_nothing


def _decode(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8: byte {raw[error.start]:#04x} at byte {error.start} of the record") from None


def _refuse_constant(name: str) -> None:
    raise Malformed(f"not JSON: {name} is not a JSON number")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19  # orjson makes a float of an integer of more than 64 bits


def parse_json(raw: bytes) -> Any:
    """Uses orjson, which is several times as fast, and the standard reader for what orjson refuses or rounds.

    Raises Malformed.
    """
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
        self._file = open_file(self.path)
        return read_lines(self._file)

    def parse(self, raw: bytes) -> Any:
        text = _decode(raw)
        return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")

    def show(self, raw: bytes) -> Any:
        return raw.decode(errors="backslashreplace").rstrip("\r\n")

    def offset(self, raw: bytes) -> int | None:
        return position(self.path, self._file, len(raw))


class JsonLines(TextLines):
    """Each line that is not blank is a record: any JSON value."""

    def raws(self) -> Iterator[bytes]:
        return (line for line in super().raws() if not line.isspace())

    def parse(self, raw: bytes) -> Any:
        return parse_json(raw)

    def show(self, raw: bytes) -> Any:
        try:
            return self.parse(raw)
        except Malformed:
            return super().show(raw)


class JsonDocument(JsonLines):
    """The whole file is one record."""

    def raws(self) -> Iterator[bytes]:
        if holds_nothing(self.path):
            return
        file = open_file(self.path)
        with reading(file):
            yield file.read().removeprefix(codecs.BOM_UTF8)

    def offset(self, raw: bytes) -> int | None:
        return None


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
