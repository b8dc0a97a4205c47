"""Splits by reading every byte once, in order: of a multiline CSV the places to cut, of a compressed stream the parts.

Memory and disk stay flat: a window of the object, and the parts that are being written. What takes the processor's time
runs in a thread, a slice at a time, so that the worker's heartbeat goes on.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from services.contract.location import Location
from services.contract.task_input import ByteRange, Place
from services.inputs.lines.headers import HEADER_BYTES_MAX, Head, find_head
from services.inputs.lines.split import part_options
from services.inputs.registry import FORMATS
from services.inputs.spec import LinesInput
from services.platform.decompress import DamagedStream, Decompressor
from services.platform.reads import PinnedObject
from services.platform.transfer import download, upload
from services.worker.split.meter import Meter
from services.worker.split.record_ends import RecordEnds, record_ends

_WINDOW_BYTES = 8 << 20
_SLICE_BYTES = 1 << 20  # looked at without giving other threads their turn
_UPLOADS_AT_ONCE = 2


class _Cutter:
    """Fed with all bytes of the text in order: finds its head, then where to cut it."""

    def __init__(self, source: LinesInput, part_bytes: int) -> None:
        self.head: Head | None = None
        self._source = source
        self._part_bytes = part_bytes
        self._begin = b""
        self._ends: RecordEnds | None = None

    def feed(self, data: bytes, last: bool = False) -> tuple[bytes, list[int]]:
        """Text that belongs to parts, and the positions at which parts end; raises SplitError."""
        if self._ends is None:
            self._begin += data
            self.head = self._find_head(last)
            if self.head is None:
                return b"", []
            data = self._begin[self.head.bytes :]
            self._ends = record_ends(self.head.bytes, self._part_bytes, self._source.csv, self._source.record_bytes)
        return data, self._ends.feed(data)

    def finish(self) -> tuple[bytes, list[int]]:
        """The rest; raises SplitError and OpenQuote."""
        data, cuts = (b"", []) if self._ends else self.feed(b"", last=True)
        assert self._ends is not None
        return data, cuts + self._ends.finish()

    def _find_head(self, last: bool) -> Head | None:
        if self._source.format == "fixed":
            return Head()
        return find_head(self._begin, self._source, last or len(self._begin) > HEADER_BYTES_MAX)


async def cut_in_place(
    object_: PinnedObject, source: LinesInput, part_bytes: int, meter: Meter
) -> AsyncIterator[ByteRange]:
    """Parts of an object that is not compressed: byte ranges of it."""
    cutter = _Cutter(source, part_bytes)
    place, etag, options = object_.location, object_.etag, part_options(source)
    start: int | None = None
    async for end in _ends_of_parts(object_, cutter, meter):
        assert cutter.head is not None
        start = cutter.head.bytes if start is None else start
        if start < end:
            yield ByteRange(place, start, end, source.format, etag, cutter.head.header, options)
        start = end


async def _ends_of_parts(object_: PinnedObject, cutter: _Cutter, meter: Meter) -> AsyncIterator[int]:
    async for window in _windows(object_):
        for cut in await meter.in_thread(_feed_slices, cutter, window):
            yield cut
    for cut in cutter.finish()[1]:
        yield cut
    yield object_.size


def _feed_slices(cutter: _Cutter, window: bytes) -> list[int]:
    return [cut for piece in _slices(window) for cut in cutter.feed(piece)[1]]


def _slices(data: bytes) -> list[bytes]:
    return [data[start : start + _SLICE_BYTES] for start in range(0, len(data), _SLICE_BYTES)]


async def cut_into_objects(
    object_: PinnedObject,
    source: LinesInput,
    part_bytes: int,
    meter: Meter,
    directory: Path,
    locate: Callable[[str], Location],
) -> AsyncIterator[ByteRange]:
    """Parts of a compressed object: each decompressed, in an object of its own."""
    parts = _PartFiles(_Cutter(source, part_bytes), source, directory)
    decompressor = Decompressor(source.compressed or "")
    uploads: list[asyncio.Task[ByteRange]] = []

    async def put(path: Path, start: int) -> ByteRange:
        stored = await upload(object_.s3, path, locate(path.name))
        await asyncio.to_thread(path.unlink)
        origin = Place(object_.location, start)
        return ByteRange(
            stored.location, 0, stored.bytes, source.format, None, parts.header, part_options(source), origin
        )

    try:
        async for window in _windows(object_, last=b""):
            for piece in _slices(window) or [b""]:
                for path, start in await meter.in_thread(parts.feed, decompressor, piece):
                    uploads.append(asyncio.create_task(put(path, start)))
                    if len(uploads) > _UPLOADS_AT_ONCE:
                        yield await uploads.pop(0)
        while uploads:
            yield await uploads.pop(0)
    finally:
        for task in uploads:
            task.cancel()
        await asyncio.gather(*uploads, return_exceptions=True)


class _PartFiles:
    """Writes decompressed text to files, one a part."""

    def __init__(self, cutter: _Cutter, source: LinesInput, directory: Path) -> None:
        self._cutter = cutter
        self._source = source
        self._directory = directory
        self._position: int | None = None  # in the text, of what was written last
        self._start = 0  # in the text, of the part that is being written
        self._count = 0
        self._file: BinaryIO | None = None

    @property
    def header(self) -> str | None:
        return self._cutter.head.header if self._cutter.head else None

    def feed(self, decompressor: Decompressor, window: bytes) -> list[tuple[Path, int]]:
        """Returns the files that are complete, and where in the text each begins; an empty window ends the last one."""
        done: list[tuple[Path, int]] = []
        if not window:
            decompressor.finish()
            self._write(*self._cutter.finish(), done)
            self._check_length()
            self._end_part(done)
        for piece in decompressor.feed(window):
            for text in _slices(piece):
                self._write(*self._cutter.feed(text), done)
        return done

    def _write(self, text: bytes, cuts: list[int], done: list[tuple[Path, int]]) -> None:
        if self._position is None:
            if self._cutter.head is None:
                return
            self._position = self._cutter.head.bytes
        begin, written = self._position, 0
        for cut in cuts:
            self._append(text[written : cut - begin], begin + written)
            self._end_part(done)
            written = cut - begin
        self._append(text[written:], begin + written)
        self._position = begin + len(text)

    def _append(self, text: bytes, position: int) -> None:
        if not text:
            return
        if self._file is None:
            self._file, self._start = self._path().open("wb"), position
        self._file.write(text)

    def _end_part(self, done: list[tuple[Path, int]]) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            done.append((self._path(), self._start))
            self._count += 1

    def _path(self) -> Path:
        return self._directory / f"part-{self._count:08d}{FORMATS[self._source.format].suffix}"

    def _check_length(self) -> None:
        length, text_bytes = self._source.record_bytes, self._position or 0
        if length is not None and text_bytes % length:
            raise DamagedStream(f"holds {text_bytes} bytes, which is no multiple of record_bytes = {length}")


async def _windows(object_: PinnedObject, last: bytes | None = None) -> AsyncIterator[bytes]:
    """The object's bytes in order, the next window being read while one is worked on; `last` after them if given."""
    starts = iter(range(0, object_.size, _WINDOW_BYTES))

    async def read(start: int) -> bytes:
        buffer, end = BytesIO(), min(start + _WINDOW_BYTES, object_.size)
        await download(object_.s3, object_.location, buffer, etag=object_.etag, start=start, end=end)
        return buffer.getvalue()

    def begin() -> asyncio.Task[bytes] | None:
        return next((asyncio.create_task(read(start)) for start in starts), None)

    reading = begin()
    try:
        while reading is not None:
            window = await reading
            reading = begin()
            yield window
    finally:
        if reading is not None:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
    if last is not None:
        yield last
