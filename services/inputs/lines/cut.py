"""Lines cut by a reader of every byte, which knows what is quoted or escaped."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from services.inputs.chunk import SplitError
from services.inputs.cutter import Cut
from services.inputs.lines.headers import HEADER_BYTES_MAX, Head, find_head
from services.inputs.lines.record_ends import OpenQuote, RecordEnds, record_ends
from services.inputs.lines.split import part_options
from services.inputs.spec import LinesInput


class Cutter:
    """Finds the head of a text, then the record ends at which to cut it."""

    def __init__(self, source: LinesInput, part_bytes: int) -> None:
        self.format: str = source.format
        self.options: dict[str, Any] = part_options(source)
        self._source = source
        self._part_bytes = part_bytes
        self._begin = b""
        self._header: str | None = None
        self._ends: RecordEnds | None = None
        self._size = 0  # of the text

    def feed(self, data: bytes) -> tuple[bytes, list[Cut]]:
        self._size += len(data)
        if self._ends is None:
            self._begin += data
            return self._feed_begin(len(self._begin) > HEADER_BYTES_MAX)
        with self._naming_the_object():
            return data, self._cuts(self._ends.feed(data))

    def finish(self) -> tuple[bytes, list[Cut]]:
        text, cuts = (b"", []) if self._ends else self._feed_begin(last=True)
        assert self._ends is not None
        length = self._source.record_bytes
        if length is not None and self._size % length:
            raise SplitError(f"{self._source.uri} has {self._size} bytes, not a multiple of record_bytes = {length}")
        with self._naming_the_object():
            return text, cuts + self._cuts(self._ends.finish())

    def _feed_begin(self, last: bool) -> tuple[bytes, list[Cut]]:
        head = Head() if self._source.format == "fixed" else find_head(self._begin, self._source, last)
        if head is None:
            return b"", []
        self._header, self._source = head.header, head.told(self._source)
        self.options = part_options(self._source)
        self._ends = record_ends(head.bytes, self._part_bytes, self._source.csv, self._source.record_bytes)
        text = self._begin[head.bytes :]
        with self._naming_the_object():
            return text, self._cuts([head.bytes, *self._ends.feed(text)])

    def _cuts(self, positions: list[int]) -> list[Cut]:
        return [Cut(position, self._header) for position in positions]

    @contextmanager
    def _naming_the_object(self) -> Iterator[None]:
        try:
            yield
        except OpenQuote as error:
            raise SplitError(f"{self._source.uri}: {error}") from None
