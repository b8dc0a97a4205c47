"""The head of an object of lines, before its first record: a byte order mark, blank lines, a CSV's header."""

import codecs
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from services.inputs.chunk import SplitError
from services.inputs.csv_dialect import SEPARATOR_BYTES_MAX, SEPARATOR_LINE
from services.inputs.magic import HEAD_BYTES, recognise
from services.inputs.registry import UNREAD_COMPRESSIONS
from services.inputs.spec import LinesInput

HEADER_BYTES_MAX = 65_536

_BLANK_LINES = re.compile(rb"(?:\r?\n)*+")
_LONE_CR = re.compile(r"\r(?!\n)")


@dataclass(frozen=True, slots=True)
class Head:
    """The bytes before the first record; `header` is the part of them that goes before each part.

    `delimiter` is the one that Excel's first line names, if the input does not say another.
    """

    bytes: int = 0
    header: str | None = None
    delimiter: str | None = None

    def told(self, source: LinesInput) -> LinesInput:
        """The input with what the head tells of it."""
        return source.model_copy(update={"delimiter": self.delimiter}) if self.delimiter else source


def find_head(data: bytes, source: LinesInput, last: bool) -> Head | None:
    """The head of an object that begins with `data`; None if more data is needed and `last` is false.

    Raises SplitError if the object does not match `source`.
    """
    _refuse_other(data, source)
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    if source.csv is None:
        return Head(start)
    if len(data) < start + SEPARATOR_BYTES_MAX and not last:
        return None
    named = SEPARATOR_LINE.match(data, start)
    delimiter = named[1].decode() if named and source.delimiter is None else None
    return _csv_head(data, named.end() if named else start, source, delimiter, last)


def _csv_head(data: bytes, start: int, source: LinesInput, delimiter: str | None, last: bool) -> Head | None:
    source = Head(delimiter=delimiter).told(source)
    assert source.csv is not None
    if not source.csv.header:
        return Head(start, delimiter=delimiter)
    blank = _BLANK_LINES.match(data, start)
    begin = blank.end() if blank else start
    end = _header_end(data, begin, source)
    if end is None and not last:
        return None
    whole = end is not None or len(data) <= HEADER_BYTES_MAX
    if not whole or (end or 0) - begin > HEADER_BYTES_MAX:
        raise SplitError(f"{source.uri}: the CSV header (first line) is longer than {HEADER_BYTES_MAX} bytes")
    return Head(end or len(data), _check(data[begin : end or len(data)], source), delimiter)


def check_begin(data: bytes, source: LinesInput) -> None:
    """Raises SplitError unless the object, which begins with `data`, may be compressed as `source` says."""
    if source.compressed is None:
        _refuse_other(data, source)
        return
    found = recognise(data[:HEAD_BYTES])
    if data and (found is None or found.compression != source.compressed):
        begin = (
            f"like {found.name}: {found.fix}"
            if found
            else f"with the bytes {data[:10].hex(' ')}: set compression: none"
        )
        raise SplitError(f"{source.uri} is not {source.compressed}, as its name or compression says. It begins {begin}")


def _refuse_other(data: bytes, source: LinesInput) -> None:
    """Raises SplitError if the object is not text: its first bytes are worth more than its name."""
    found = recognise(data[:HEAD_BYTES])
    if found is None and source.compression is None and data:
        suffix = PurePosixPath(source.uri).suffix
        if unread := UNREAD_COMPRESSIONS.get(suffix.lower()):
            fix = "compress it as gzip or zstd (or set compression: none if only the name is wrong)"
            raise SplitError(f"{source.uri} is {unread} by its name, which is not read: {fix}")
    if found is None or (found.compression and source.compression == "none"):
        return
    if found.compression and source.compressed:
        raise SplitError(f"{source.uri} is compressed twice, as {found.name} within {source.compressed}: decompress it")
    raise SplitError(f"{source.uri} {found.instead_of('lines')}")


def _header_end(data: bytes, begin: int, source: LinesInput) -> int | None:
    """The end of the header's line; for multiline CSV, of its record."""
    assert source.csv is not None
    head = data[begin : begin + HEADER_BYTES_MAX + 1]
    end = source.csv.record_end(head) if source.multiline else head.find(b"\n") + 1
    return begin + end if end else None


def _check(raw: bytes, source: LinesInput) -> str:
    """The header as text. Raises SplitError if it is not a valid header."""
    assert source.csv is not None
    what = f"{source.uri}: the CSV header (first line)"
    try:
        header = raw.decode()
    except UnicodeDecodeError as error:
        raise SplitError(f"{what} is not UTF-8: byte {raw[error.start]:#04x} at byte {error.start}") from None
    if "\0" in header:
        raise SplitError(f"{what} holds NUL characters; is this UTF-16?")
    if source.csv.left_open(raw) is not None:
        raise SplitError(f"{what} has a quote that does not close; if quoted fields hold newlines, set multiline: true")
    if _LONE_CR.search(header) and not source.multiline:
        raise SplitError(f"{what} holds a carriage return without a line feed; lines must end in LF or CRLF")
    return header
