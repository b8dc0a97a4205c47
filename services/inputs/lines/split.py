"""Objects of lines or of fixed-length records, cut by byte range; a small read moves each cut to a record end."""

import asyncio
import re
from typing import Any

from services.contract.location import Location
from services.contract.task_input import ByteRange
from services.inputs.chunk import Chunk, SplitError
from services.inputs.grid import needs_grid
from services.inputs.lines.headers import HEADER_BYTES_MAX, Head, check_begin, find_head
from services.inputs.magic import HEAD_BYTES
from services.inputs.ranges import FindCut, cut_ranges, first_cursor
from services.inputs.sizes import choose_part_bytes
from services.inputs.spec import LinesInput
from services.platform.reads import PinnedObject

WINDOW_BYTES = 4096  # doubled until it holds a line end
WINDOW_BYTES_MAX = 8_388_608


async def split(s3: Any, source: LinesInput, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    """Raises SplitError if the object's beginning does not match its format, or if there would be too many parts."""
    if cursor is None:
        object_ = await PinnedObject.find(s3, source.uri)
        cursor = await _first_cursor(object_, source, slots)
    else:
        object_ = PinnedObject(s3, Location.parse(source.uri), cursor["etag"], cursor["bytes"])
    source = Head(delimiter=cursor.get("delimiter")).told(source)
    ranges = await cut_ranges(cursor, _finder(object_, source))
    place, etag, header, options = object_.location, object_.etag, cursor["header"], part_options(source)
    parts = [ByteRange(place, start, end, source.format, etag, header, options) for start, end in ranges.parts]
    return Chunk([part.to_json() for part in parts], ranges.cursor, ranges.done, share=ranges.share)


async def look(s3: Any, source: LinesInput) -> None:
    """Raise what the split would raise at its start; for an input that only a task can split, by its first bytes."""
    object_ = await PinnedObject.find(s3, source.uri)
    if not needs_grid(source):
        await _first_cursor(object_, source, slots=1)
    else:
        check_begin(await object_.read(0, HEAD_BYTES), source)


def part_options(source: LinesInput) -> dict[str, Any]:
    """Options for a part's reader, in addition to its format."""
    options: dict[str, Any] = {}
    if source.csv is not None and (unusual := source.csv.as_options(source.format)):
        options["csv"] = unusual
    if source.record_bytes is not None:
        options["record_bytes"] = source.record_bytes
    return options


async def _first_cursor(object_: PinnedObject, source: LinesInput, slots: int) -> dict[str, Any]:
    head = Head() if source.format == "fixed" else await _read_head(object_, source)
    part_bytes = choose_part_bytes(source, object_.size - head.bytes, slots)
    if source.record_bytes is not None:
        if object_.size % source.record_bytes:
            raise SplitError(
                f"{source.uri} has {object_.size} bytes, not a multiple of record_bytes = {source.record_bytes}"
            )
        part_bytes = -(-part_bytes // source.record_bytes) * source.record_bytes
    place = first_cursor(head.bytes, object_.size, part_bytes)
    told = {} if head.delimiter is None else {"delimiter": head.delimiter}
    return place | {"etag": object_.etag, "header": head.header} | told


async def _read_head(object_: PinnedObject, source: LinesInput) -> Head:
    """The head before the first record, from reads that grow until they hold all of it."""
    data, window = b"", WINDOW_BYTES
    while True:
        data += await object_.read(len(data), window)
        whole = len(data) == object_.size
        head = await asyncio.to_thread(find_head, data, source, whole or len(data) > HEADER_BYTES_MAX)
        if head is not None:
            return head
        window *= 4


def _finder(object_: PinnedObject, source: LinesInput) -> FindCut:
    """A function that finds the first start of a record in `target … end - 1`, or None."""
    if source.record_bytes is None:
        return _LineStarts(object_, source.csv.escape if source.csv else None).find

    async def start_of_record(target: int, end: int) -> int:
        return target  # a multiple of the record's length, as all targets are

    return start_of_record


class _LineStarts:
    """The starts of an object's lines. Escaped line ends do not count. No byte is read twice."""

    def __init__(self, object_: PinnedObject, escape: str | None) -> None:
        self._object = object_
        self._before = 1 if escape else 0  # how many bytes before a line end decide whether it is escaped
        self._line_end = re.compile(b"[^" + re.escape(escape.encode()) + rb"]\n" if escape else rb"\n")

    async def find(self, target: int, end: int) -> int | None:
        position, window = max(0, target - 1 - self._before), WINDOW_BYTES
        while position + self._before < end - 1:
            data = await self._object.read(position, min(position + window, end - 1))
            if found := self._line_end.search(data):
                return position + found.end()
            position += len(data) - self._before
            window = min(window * 2, WINDOW_BYTES_MAX)
        return None
