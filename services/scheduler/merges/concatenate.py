"""Joining objects end to end: large ones are copied inside S3, small neighbours are coalesced through memory.

Sizes alone decide how, so that small objects can be read ahead, many at once. If the result would need more parts than
S3 allows, sections of it are joined first; two levels suffice for the largest object that S3 takes.
"""

import asyncio
import zlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from services.contract.location import Location
from services.platform import multipart
from services.platform.multipart import MultipartWriter, delete_all
from services.platform.reads import read_written
from services.scheduler.merges.crc32 import combine

READS_AT_ONCE = 32
READ_AHEAD_BYTES = 16_777_216
SECTION_PARTS = multipart.PARTS_MAX // 2  # the section's last source may be of as many pieces again


class TooLarge(Exception):
    """The result would be larger than S3 allows."""


@dataclass(frozen=True, slots=True)
class Source:
    """Bytes `start … end - 1` of an object; their CRC-32 and the object's ETag, if these are known."""

    location: Location
    start: int
    end: int
    crc32: int | None = None
    etag: str | None = None

    @property
    def bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Literal:
    """A few bytes between two sources."""

    data: bytes

    @property
    def bytes(self) -> int:
        return len(self.data)

    @property
    def crc32(self) -> int:
        return zlib.crc32(self.data)


Piece = Source | Literal


@dataclass(frozen=True, slots=True)
class Extent:
    """The number of sources to join, their total bytes, and the bytes of a literal between two: upper bounds."""

    sources: int
    bytes: int
    between: int = 0

    @property
    def parts_max(self) -> int:
        """S3's parts when joined at once: no part but the last is under the minimum, and a source makes two at most."""
        size = self.bytes + self.between * self.sources
        return min(size // multipart.PART_BYTES_MIN + 1, 2 * self.sources + size // multipart.PART_BYTES_MAX)


@dataclass(slots=True)
class Joined:
    """What has been joined so far; its CRC-32 is known if that of each source is."""

    bytes: int = 0
    crc32: int | None = 0

    async def count(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
        async for piece in pieces:
            self.bytes += piece.bytes
            self.crc32 = combine(self.crc32, piece.crc32, piece.bytes)
            yield piece


async def concatenate(
    s3: Any, target: Location, sources: AsyncIterator[Piece], extent: Extent, sections: Location
) -> Joined:
    """Write the sources, in order, to `target`. Raises TooLarge, TooManyParts, ObjectLost, and what S3's client raises.

    It creates and deletes objects under the prefix `sections`, which must not be used by anything else.
    """
    if extent.bytes > multipart.OBJECT_BYTES_MAX:
        raise TooLarge(f"{target.uri} would have {extent.bytes:,} bytes; S3 takes {multipart.OBJECT_BYTES_MAX:,}")
    joined = Joined()
    counted = joined.count(sources)
    if extent.parts_max <= multipart.PARTS_MAX:
        await _join(s3, target, counted)
    else:
        await _join_by_sections(s3, target, counted, sections)
    return joined


async def _join(s3: Any, target: Location, sources: AsyncIterator[Piece]) -> None:
    async with aclosing(_read_ahead(s3, _plan(sources))) as steps, MultipartWriter(s3, target) as writer:
        async for step in steps:
            await step.write(writer)


async def _join_by_sections(s3: Any, target: Location, sources: AsyncIterator[Piece], place: Location) -> None:
    try:
        sections = await _write_sections(s3, sources, place)
        await _join(s3, target, _each(sections))
    finally:
        await delete_all(s3, place)


async def _write_sections(s3: Any, sources: AsyncIterator[Piece], place: Location) -> list[Source]:
    sections: list[Source] = []
    async with aclosing(_read_ahead(s3, _plan(sources))) as steps:
        step = await anext(steps, None)
        while step is not None:
            section = Location(place.bucket, f"{place.key}{len(sections):05}")
            async with MultipartWriter(s3, section) as writer:
                while step is not None and writer.parts < SECTION_PARTS:
                    await step.write(writer)
                    step = await anext(steps, None)
            sections.append(Source(section, 0, writer.bytes))
    return sections


async def _each(sources: list[Source]) -> AsyncIterator[Piece]:
    for source in sources:
        yield source


@dataclass(slots=True)
class Copy:
    """A source that S3 copies by itself."""

    source: Source

    @property
    def reads(self) -> int:
        return 0

    async def write(self, writer: MultipartWriter) -> None:
        await writer.copy(self.source.location, self.source.start, self.source.end, self.source.etag)


@dataclass(slots=True)
class Read:
    """A source whose bytes pass through memory; `data` is on its way once the step is near."""

    source: Source
    data: asyncio.Task[bytes] | None = None

    @property
    def reads(self) -> int:
        return self.source.bytes

    async def write(self, writer: MultipartWriter) -> None:
        assert self.data is not None
        await writer.write(await self.data)


@dataclass(slots=True)
class Write:
    """Bytes that are known."""

    source: Literal
    reads = 0

    async def write(self, writer: MultipartWriter) -> None:
        await writer.write(self.source.data)


Step = Copy | Read | Write


async def _plan(sources: AsyncIterator[Piece]) -> AsyncIterator[Step]:
    waiting = 0  # bytes in the writer's memory
    async for source in sources:
        for step in plan_source(source, waiting):
            waiting = 0 if isinstance(step, Copy) else waiting + step.source.bytes
            waiting = 0 if waiting >= multipart.BUFFER_BYTES else waiting
            yield step


def plan_source(source: Piece, waiting: int) -> Iterator[Step]:
    """How a source is appended when `waiting` bytes are in memory: no part but the last may be under S3's minimum."""
    if isinstance(source, Literal):
        yield Write(source)
        return
    fill = max(multipart.PART_BYTES_MIN - waiting, 0) if waiting else 0
    if source.bytes - fill >= multipart.PART_BYTES_MIN:
        if fill:
            border = source.start + fill
            yield Read(Source(source.location, source.start, border, etag=source.etag))
            source = Source(source.location, border, source.end, etag=source.etag)
        yield Copy(source)
    elif source.bytes:
        yield Read(source)


async def _read_ahead(s3: Any, steps: AsyncIterator[Step]) -> AsyncGenerator[Step, None]:
    """The same steps, with reads under way for those to come."""
    ahead: deque[Step] = deque()
    size = 0
    try:
        async for step in steps:
            while ahead and (len(ahead) >= READS_AT_ONCE or size + step.reads > READ_AHEAD_BYTES):
                yield ahead[0]
                size -= ahead.popleft().reads
            if isinstance(step, Read):
                step.data = asyncio.create_task(_read(s3, step.source))
            ahead.append(step)
            size += step.reads
        while ahead:
            yield ahead[0]
            ahead.popleft()
    finally:
        reading = [step.data for step in ahead if isinstance(step, Read) and step.data is not None]
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


async def _read(s3: Any, source: Source) -> bytes:
    return await read_written(s3, source.location, source.start, source.end, crc32=source.crc32, etag=source.etag)
