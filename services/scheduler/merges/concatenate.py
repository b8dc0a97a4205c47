"""Joining objects end to end: large ones are copied inside S3, small neighbours are coalesced through memory."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from services.common.layout import Location
from services.scheduler.merges.multipart import PART_BYTES_MIN, PARTS_MAX, MultipartWriter
from services.scheduler.reads import read_range

COALESCED_BYTES = (
    8_388_608  # aimed at per coalesced part, unless the result is so large that S3's part limit needs more
)


class TooShort(Exception):
    """An object holds fewer bytes than were written to it."""


@dataclass(frozen=True, slots=True)
class Source:
    """Bytes `start … end - 1` of an object."""

    location: Location
    start: int
    end: int


async def concatenate(s3: Any, target: Location, sources: AsyncIterator[Source], total_bytes: int) -> int:
    """Write the sources, in order, to `target`; returns its size in bytes. Raises TooManyParts, TooShort."""
    part_bytes = max(COALESCED_BYTES, total_bytes // (PARTS_MAX * 9 // 10))
    async with MultipartWriter(s3, target) as writer:
        async for source in sources:
            await _append(s3, writer, source, part_bytes)
    return writer.bytes


async def _append(s3: Any, writer: MultipartWriter, source: Source, part_bytes: int) -> None:
    start = source.start
    if not writer.at_part_border:
        # Fill the waiting part up to the minimum; if enough remains, the rest can be copied.
        fill = min(max(PART_BYTES_MIN - writer.waiting_bytes, 0), source.end - start)
        if source.end - start - fill >= PART_BYTES_MIN:
            await _download(s3, writer, source.location, start, start + fill, part_bytes)
            await writer.flush()
            start += fill
    if writer.at_part_border and source.end - start >= PART_BYTES_MIN:
        await writer.copy(source.location, start, source.end)
    elif source.end > start:
        await _download(s3, writer, source.location, start, source.end, part_bytes)


async def _download(
    s3: Any, writer: MultipartWriter, location: Location, start: int, end: int, part_bytes: int
) -> None:
    if start == end:
        return
    data = await read_range(s3, location, start, end)
    if len(data) != end - start:
        raise TooShort(f"{location.uri} ends before byte {end}")
    await writer.write(data, part_bytes)
