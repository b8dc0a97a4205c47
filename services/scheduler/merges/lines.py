"""Outputs that are text, joined so that no two lines become one: each gets the line end that its last line lacks.

A worker tells how the text that it put begins and ends. For one of an earlier release, which did not, two small reads
do. Of compressed outputs only a worker can tell, and of other outputs no byte is touched.
"""

import zlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from services.contract.task_output import StoredObject
from services.inputs.magic import HEAD_BYTES
from services.inputs.registry import compression_suffix
from services.inputs.text_ends import holds_lines, text_ends
from services.platform.reads import read_written
from services.scheduler.merges.concatenate import Literal, Piece, Source
from services.scheduler.merges.crc32 import combine

END_BYTES_MAX = 64  # one that is compressed as xz takes the most


async def join_lines(
    s3: Any, objects: AsyncIterator[StoredObject], lines: bool | None, *, all_text: bool
) -> AsyncIterator[Piece]:
    """What makes one object of these: the first one's header and byte order mark, and all else.

    Without `lines`, their names tell whether they hold lines, and if these don't, whether they are `all_text`.
    """
    first, missing_end = True, b""
    async for object_ in objects:
        if lines is None:
            named = holds_lines(object_.location.key)
            lines = all_text if named is None else named
        if lines:
            object_ = await _with_ends(s3, object_)
        source = source_of(object_, whole=first or not (lines or object_.header_bytes))
        first = False
        if source.bytes:
            if missing_end:
                yield Literal(missing_end)
            yield source
            missing_end = (object_.missing_end or b"") if lines else b""


def source_of(object_: StoredObject, *, whole: bool = True) -> Source:
    """All of the object; or what follows its header, or its byte order mark."""
    size, crc32 = object_.bytes, object_.crc32
    if whole:
        return Source(object_.location, 0, size, crc32, object_.etag)
    header = object_.header_bytes, object_.header_crc32
    begin, begin_crc32 = header if object_.header_bytes else (len(object_.mark), zlib.crc32(object_.mark))
    return Source(object_.location, begin, size, combine(begin_crc32, crc32, size - begin), object_.etag)


async def _with_ends(s3: Any, object_: StoredObject) -> StoredObject:
    if object_.missing_end is not None or compression_suffix(object_.location.key):
        return object_
    size, etag = object_.bytes, object_.etag
    head = await read_written(s3, object_.location, 0, min(size, HEAD_BYTES), etag=etag)
    tail = await read_written(s3, object_.location, max(0, size - HEAD_BYTES), size, etag=etag)
    ends = text_ends(head, tail)
    return replace(object_, mark=ends.mark, missing_end=ends.missing_end)
