"""XML documents, cut by byte range; a small read moves each cut to the next start tag of a record.

A small read can't tell whether something that looks like a record's start tag is one: it may be in a comment or a CDATA
section, or begin an element inside a record. So each part is checked before its processor sees it (check.py).
"""

import re
from typing import Any

from services.contract.location import Location
from services.contract.task_input import ByteRange
from services.inputs.chunk import Chunk, SplitError
from services.inputs.ranges import cut_ranges, first_cursor
from services.inputs.sizes import choose_part_bytes
from services.inputs.spec import XmlInput
from services.inputs.xml.head import HEAD_BYTES_MAX, Around, Head, content_start, find_head, name_elements
from services.platform.reads import PinnedObject

HEAD_WINDOW_BYTES = 4096  # grown until it holds the start of the first record
WINDOW_BYTES = 4096  # doubled until it holds a start tag
WINDOW_BYTES_MAX = 8_388_608


async def split(s3: Any, source: XmlInput, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    """Raises SplitError if the object is not such XML, or if there would be too many parts."""
    if cursor is None:
        object_ = await PinnedObject.find(s3, source.uri)
        cursor = await _first_cursor(object_, source, slots)
    else:
        object_ = PinnedObject(s3, Location.parse(source.uri), cursor["etag"], cursor["bytes"])
    ranges = await cut_ranges(cursor, _StartTags(object_, source.record_tag).find)
    options = part_options(source)
    parts = [
        ByteRange(object_.location, start, end, "xml", object_.etag, cursor["header"], options | _footer(cursor, end))
        for start, end in ranges.parts
    ]
    return Chunk([part.to_json() for part in parts], ranges.cursor, ranges.done, share=ranges.share)


async def look(s3: Any, source: XmlInput) -> None:
    """Raise what the split would raise at its start. An input that only a task can split is checked by that task."""
    object_ = await PinnedObject.find(s3, source.uri)
    if not source.needs_grid:
        await _first_cursor(object_, source, slots=1)
    elif source.compressed is None:
        content_start(await object_.read(0, HEAD_WINDOW_BYTES), source.uri)


def part_options(source: XmlInput) -> dict[str, Any]:
    """Options for a part's reader."""
    return {"record_tag": source.record_tag} | ({"lists": source.lists} if source.lists else {})


def _footer(cursor: dict[str, Any], end: int) -> dict[str, Any]:
    """Of the last part, none: it holds the end tags of what is around its records."""
    return {"footer": cursor["footer"]} if end < cursor["bytes"] else {}


async def _first_cursor(object_: PinnedObject, source: XmlInput, slots: int) -> dict[str, Any]:
    head = await _read_head(object_, source)
    around = head.around or Around("", "")
    part_bytes = choose_part_bytes(source, object_.size - head.bytes, slots)
    place = first_cursor(head.bytes, object_.size, part_bytes)
    return place | {"etag": object_.etag, "header": around.header, "footer": around.footer}


async def _read_head(object_: PinnedObject, source: XmlInput) -> Head:
    """The head before the first record, from reads that grow until they hold all of it."""
    data, window = b"", HEAD_WINDOW_BYTES
    while True:
        data += await object_.read(len(data), window)
        head = find_head(data, source.uri, source.record_tag, whole=len(data) == object_.size)
        if head is not None:
            return head
        if len(data) >= HEAD_BYTES_MAX:
            found = ", ".join(name_elements(data))
            raise SplitError(
                f"{source.uri}: no element <{source.record_tag}> begins in the first {len(data)} bytes, where {found} "
                "do: set record_tag to the name of the records; or, if they begin later, set scan: true"
            )
        window = min(window * 4, HEAD_BYTES_MAX)


class _StartTags:
    """Finds text in an object that looks like the start tag of a record."""

    def __init__(self, object_: PinnedObject, record_tag: str) -> None:
        self._object = object_
        self._tag = re.compile(b"<" + re.escape(record_tag.encode()) + rb"(?=[ \t\r\n/>])")
        self._tag_bytes = len(record_tag.encode()) + 2  # including the byte that shows where the name ends

    async def find(self, target: int, end: int) -> int | None:
        """The first one that begins in `target … end - 1`; also finds one that spans two reads."""
        position, window = target, WINDOW_BYTES
        while position < end:
            data = await self._object.read(position, min(position + window, end + self._tag_bytes - 1))
            if found := self._tag.search(data):
                return position + found.start()
            position += max(1, len(data) - self._tag_bytes + 1)
            window = min(window * 2, WINDOW_BYTES_MAX)
        return None
