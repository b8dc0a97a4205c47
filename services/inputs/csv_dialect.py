"""CSV as bytes: finds where records end from the quotes alone, fast enough to scan every byte of an object.

A quote opens a field only at the field's start, so `5" pipe` is not a quoted field; a byte order mark that begins a
line, as `cat` leaves it within a file, is not part of the field. Inside quotes, a doubled quote stands for itself. An
escape takes the next byte literally, inside and outside quotes. All three are ASCII, so they can't be confused with
bytes of UTF-8, Latin-1 and the like.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

# Excel's first line, which names the delimiter: it is neither header nor record.
SEPARATOR_LINE = re.compile(rb'"?sep=([\t -~])"?\r?\n', re.IGNORECASE)
_AFTER_MARK = rb"(?:(?<=\n\xef\xbb\xbf)|(?<=\A\xef\xbb\xbf))"
BYTES_BEHIND = 4  # as many bytes before a quote tell whether it is at a field's start
SEPARATOR_BYTES_MAX = len(b'"sep=;"\r\n')


@dataclass(frozen=True)
class CsvDialect:
    """How the records of a CSV object are written."""

    delimiter: str = ","
    quote: str | None = '"'
    escape: str | None = None
    header: bool = True

    @classmethod
    def of_part(cls, options: dict[str, Any] | None, format: str) -> "CsvDialect":
        """The dialect of a task's input, whose `csv` holds only what differs from the default."""
        return cls(**({"delimiter": "\t" if format == "tsv" else ","} | (options or {})))

    def as_options(self, format: str) -> dict[str, Any]:
        """The value from which `of_part` makes this dialect."""
        usual = CsvDialect.of_part(None, format)
        names = ("delimiter", "quote", "escape", "header")
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(usual, name)}

    @property
    def plain(self) -> bool:
        """Whether every line end ends a record."""
        return self.quote is None and self.escape is None

    @cached_property
    def whole_fields(self) -> re.Pattern[bytes]:
        """Matches, from outside quotes, up to the last place outside quotes: the end, or a quote that is left open."""
        quote, _, delimiter = self._classes
        begin = b"(?:(?<![^" + delimiter + rb"\r\n])|" + _AFTER_MARK + b")"
        field = begin + quote + self._quoted + quote
        return self._outside(b"", [field] if quote else [])

    @cached_property
    def to_line_end(self) -> re.Pattern[bytes]:
        """Matches, from outside quotes, up to the next line end or opening quote."""
        return self._outside(rb"\n", [])

    @cached_property
    def quoted(self) -> re.Pattern[bytes]:
        """Matches, from inside quotes, up to the quote that closes."""
        return re.compile(self._quoted, re.DOTALL)

    def left_open(self, data: Any) -> int | None:
        """The position of a quote (or escape) that `data` leaves open; None if `data` is whole records."""
        if self.escape is None and (self.quote is None or data.find(self.quote.encode()) < 0):
            return None
        found = self.whole_fields.match(data)
        return None if found is None or found.end() == len(data) else found.end()

    def record_end(self, data: bytes) -> int | None:
        """The end of the first record, with its line end, in data that begins with it; None if that is not in it."""
        position, quote = 0, (self.quote or "").encode()
        while found := self.to_line_end.match(data, position):
            position = found.end()
            mark = data[position : position + 1]
            if mark in (b"", b"\n"):
                return position + 1 if mark else None
            if mark != quote:
                return None  # an escape, whose byte is not there
            closed = self.quoted.match(data, position + 1)
            position = closed.end() + 1 if closed else len(data)
            if position > len(data):
                return None
        return None

    def _outside(self, stop: bytes, units: list[bytes]) -> re.Pattern[bytes]:
        """Runs of ordinary characters, with one of the units, or a meaningless mark, between them."""
        quote, escape, delimiter = self._classes
        if quote:
            units.append(b"(?<=[^" + delimiter + rb"\r\n])(?!" + _AFTER_MARK + b")" + quote)  # not at a field's start
        if escape:
            units.append(escape + b"." + (quote + b"*+" if quote else b""))  # in the field: it opens nothing
        run = b"[^" + quote + escape + stop + b"]*+"
        return re.compile(run + b"(?:(?:" + b"|".join(units) + b")" + run + b")*+", re.DOTALL)

    @property
    def _quoted(self) -> bytes:
        quote, escape, _ = self._classes
        run = b"[^" + quote + escape + b"]*+"
        marks = quote + quote + (b"|" + escape + b"." if escape else b"")
        return run + b"(?:(?:" + marks + b")" + run + b")*+"

    @property
    def _classes(self) -> tuple[bytes, bytes, bytes]:
        """Quote, escape and delimiter, escaped for a regular expression."""
        quote, escape, delimiter = (
            re.escape(mark.encode()) if mark else b"" for mark in (self.quote, self.escape, self.delimiter)
        )
        return quote, escape, delimiter
