"""Finds where a stream of records can be cut: the first record end at or after each target."""

import re

from services.inputs.csv_dialect import BYTES_BEHIND, CsvDialect

_MARKS_BYTES_MAX = 16 << 20


class OpenQuote(ValueError):
    """The stream ended within quotes; `position` is that of the quote which opened them."""

    def __init__(self, position: int) -> None:
        super().__init__(f"the quote at byte {position} is not closed before the end")
        self.position = position


class LineEnds:
    """Every line end ends a record. Positions count from the stream's start; the first byte fed is at `start`."""

    def __init__(self, start: int, part_bytes: int) -> None:
        self._part_bytes = part_bytes
        self._target = start + part_bytes
        self._end = start  # of what was fed

    def feed(self, data: bytes) -> list[int]:
        cuts = []
        while True:
            found = data.find(b"\n", max(0, self._target - 1 - self._end))
            if found < 0:
                break
            cuts.append(self._end + found + 1)
            self._target = cuts[-1] + self._part_bytes
        self._end += len(data)
        return cuts

    def finish(self) -> list[int]:
        return []


class EqualRecords:
    """All records have the same length. A record that is cut short at the end is left to the reader."""

    def __init__(self, start: int, part_bytes: int, record_bytes: int) -> None:
        self._part_bytes = -(-part_bytes // record_bytes) * record_bytes
        self._target = start + self._part_bytes
        self._end = start

    def feed(self, data: bytes) -> list[int]:
        self._end += len(data)
        cuts = []
        while self._target <= self._end:
            cuts.append(self._target)
            self._target += self._part_bytes
        return cuts

    def finish(self) -> list[int]:
        return []


class CsvEnds:
    """A line end inside quotes, or an escaped one, does not end a record."""

    def __init__(self, start: int, part_bytes: int, dialect: CsvDialect) -> None:
        self._part_bytes = part_bytes
        self._target = start + part_bytes
        self._dialect = dialect
        self._quote = ord(dialect.quote) if dialect.quote else -1
        self._escape = ord(dialect.escape) if dialect.escape else -1
        self._escapes = (dialect.escape or "").encode()
        self._marks = (dialect.quote or "").encode() + self._escapes
        self._buffer = b""  # unread bytes, after a few before them, if any
        self._next = 0  # in the buffer
        self._offset = start  # of the buffer in the stream
        self._opened: int | None = None  # position of the open quote

    def feed(self, data: bytes) -> list[int]:
        """Raises OpenQuote only if a run of marks is too long to hold in memory."""
        buffer = self._buffer + data if self._buffer else data
        limit = self._limit(buffer)
        if len(buffer) - limit > _MARKS_BYTES_MAX:
            raise OpenQuote(self._offset + limit)
        return self._read(buffer, limit)

    def finish(self) -> list[int]:
        """Raises OpenQuote."""
        cuts = self._read(self._buffer, len(self._buffer))
        if self._opened is not None:
            raise OpenQuote(self._opened)
        return cuts

    def _read(self, buffer: bytes, limit: int) -> list[int]:
        position, cuts = self._next, []
        while position < limit:
            if self._opened is not None:
                position = _match(self._dialect.quoted, buffer, position, limit)
                if position < limit:
                    self._opened, position = None, position + 1
            elif self._offset + position < self._target - 1:
                stop = self._stop(buffer, limit)
                position = _match(self._dialect.whole_fields, buffer, position, stop)
                if position < stop:
                    position = self._pass_mark(buffer, position)
            else:
                position = _match(self._dialect.to_line_end, buffer, position, limit)
                if position < limit and buffer[position] == 0x0A:
                    position += 1
                    cuts.append(self._offset + position)
                    self._target = cuts[-1] + self._part_bytes
                elif position < limit:
                    position = self._pass_mark(buffer, position)
        kept = max(0, position - BYTES_BEHIND)
        self._buffer, self._next, self._offset = buffer[kept:], position - kept, self._offset + kept
        return cuts

    def _limit(self, buffer: bytes) -> int:
        """How far to read now: marks at the end, and an escaped byte before them, wait for the next bytes."""
        limit = len(buffer.rstrip(self._marks))
        unread = buffer[self._next : max(self._next, limit - 1)]
        escapes = len(unread) - len(unread.rstrip(self._escapes))
        return limit - 2 if escapes % 2 else limit

    def _stop(self, buffer: bytes, limit: int) -> int:
        """Where to start a closer look: near the target, but not between a quote and the bytes that explain it."""
        stop = min(limit, self._target - 1 - self._offset)
        while stop < limit and buffer[stop] == self._quote:
            if buffer[stop - 1] != self._quote and buffer[stop - 2] != self._escape:
                break
            stop += 1
        return stop

    def _pass_mark(self, buffer: bytes, position: int) -> int:
        """Continue after an opening quote, or after an escape and the escaped byte."""
        if buffer[position] != self._quote:
            position = min(position + 2, len(buffer))
            while position < len(buffer) and buffer[position] == self._quote:  # inside the field: it opens nothing
                position += 1
            return position
        self._opened = self._offset + position
        return position + 1


def _match(pattern: re.Pattern[bytes], buffer: bytes, position: int, stop: int) -> int:
    found = pattern.match(buffer, position, stop)
    return position if found is None else found.end()


RecordEnds = LineEnds | EqualRecords | CsvEnds


def record_ends(start: int, part_bytes: int, dialect: CsvDialect | None, record_bytes: int | None) -> RecordEnds:
    """The object that cuts such records into parts of about `part_bytes`."""
    if record_bytes is not None:
        return EqualRecords(start, part_bytes, record_bytes)
    if dialect is None or dialect.plain:
        return LineEnds(start, part_bytes)
    return CsvEnds(start, part_bytes, dialect)
