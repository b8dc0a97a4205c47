"""Splits by reading every byte once, in order: finds the cuts of a multiline CSV, or writes a stream's parts.

Memory and disk stay flat: a window of the object, and the parts that are being written. CPU-heavy work runs in a
thread, a slice at a time, so that the worker's heartbeat goes on.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from services.contract.location import Location
from services.contract.task_input import ByteRange, Json, Place
from services.inputs.chunk import SplitError
from services.inputs.cutter import Cut, Cutter
from services.inputs.record_size import RECORD_BYTES_MAX
from services.inputs.registry import FORMATS
from services.platform.decompress import Decompressor
from services.platform.reads import PinnedObject
from services.platform.transfer import download, upload
from services.worker.split.meter import Meter

_WINDOW_BYTES = 8 << 20
_SLICE_BYTES = 1 << 20  # bytes scanned before other threads get a turn
_UPLOADS_AT_ONCE = 2


async def cut_in_place(object_: PinnedObject, cutter: Cutter, meter: Meter) -> AsyncIterator[ByteRange]:
    """Parts of an uncompressed object: byte ranges of it."""
    begin: Cut | None = None
    async for end in _cuts(object_, cutter, meter):
        if begin is not None and begin.position < end.position:
            options = _options(cutter, end)
            yield ByteRange(
                object_.location, begin.position, end.position, cutter.format, object_.etag, begin.header, options
            )
        begin = end


async def _cuts(object_: PinnedObject, cutter: Cutter, meter: Meter) -> AsyncIterator[Cut]:
    async for window in _windows(object_):
        for cut in await meter.in_thread(_feed_slices, cutter, window):
            yield cut
    for cut in cutter.finish()[1]:
        yield cut
    yield Cut(object_.size)


def _options(cutter: Cutter, end: Cut) -> Json:
    """The reader's options for a part that ends there."""
    return cutter.options if end.footer is None else cutter.options | {"footer": end.footer}


def _feed_slices(cutter: Cutter, window: bytes) -> list[Cut]:
    return [cut for piece in _slices(window) for cut in cutter.feed(piece)[1]]


def _slices(data: bytes) -> list[bytes]:
    return [data[start : start + _SLICE_BYTES] for start in range(0, len(data), _SLICE_BYTES)]


async def cut_into_objects(
    object_: PinnedObject,
    compression: str,
    cutter: Cutter,
    part_bytes: int,
    meter: Meter,
    directory: Path,
    locate: Callable[[str], Location],
) -> AsyncIterator[ByteRange]:
    """Parts of a compressed object: each is decompressed into an object of its own."""
    files = _PartFiles(cutter, directory, part_bytes, object_.location.uri)
    decompressor = Decompressor(compression)
    uploads: list[asyncio.Task[ByteRange]] = []

    async def put(part: _PartFile) -> ByteRange:
        with part.path.open("rb") as file:
            stored = await upload(object_.s3, file, locate(part.path.name))
        await asyncio.to_thread(part.path.unlink)
        origin, options = Place(object_.location, part.begin.position), _options(cutter, part.end)
        header = part.begin.header
        return ByteRange(
            stored.location, 0, stored.bytes, cutter.format, None, header, options, origin, crc32=stored.crc32
        )

    try:
        async for window in _windows(object_, last=b""):
            for piece in _slices(window) or [b""]:
                for part in await meter.in_thread(files.feed, decompressor, piece):
                    uploads.append(asyncio.create_task(put(part)))
                    if len(uploads) > _UPLOADS_AT_ONCE:
                        yield await uploads.pop(0)
        while uploads:
            yield await uploads.pop(0)
    finally:
        for task in uploads:
            task.cancel()
        await asyncio.gather(*uploads, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _PartFile:
    path: Path
    begin: Cut
    end: Cut


class _PartFiles:
    """Writes decompressed text to files, one per part."""

    def __init__(self, cutter: Cutter, directory: Path, part_bytes: int, uri: str) -> None:
        self._cutter = cutter
        self._part_bytes = part_bytes
        self._uri = uri
        self._record_bytes_max = max(RECORD_BYTES_MAX, cutter.options.get("record_bytes", 0))
        self._directory = directory
        self._position = 0  # in the text, of the next byte to write
        self._begin: Cut | None = None  # start of the current part
        self._count = 0
        self._file: BinaryIO | None = None

    def feed(self, decompressor: Decompressor, window: bytes) -> list[_PartFile]:
        """Write a window of text; returns the completed files. An empty window ends the last one.

        Raises SplitError for a record that is too long: what is compressed a thousandfold must not fill the disk.
        """
        done: list[_PartFile] = []
        if not window:
            decompressor.finish()
            self._write(*self._cutter.finish(), done)
            self._end_part(Cut(self._position), done)
        for piece in decompressor.feed(window):
            for text in _slices(piece):
                self._write(*self._cutter.feed(text), done)
        return done

    def _write(self, text: bytes, cuts: list[Cut], done: list[_PartFile]) -> None:
        if self._begin is None and cuts:
            self._position = cuts[0].position
        begin, written = self._position, 0
        for cut in cuts:
            self._append(text[written : cut.position - begin])
            self._end_part(cut, done)
            written = cut.position - begin
        self._append(text[written:])
        self._position = begin + len(text)

    def _append(self, text: bytes) -> None:
        if not text:
            return
        if self._file is None:
            self._file = self._path().open("xb")
        self._file.write(text)
        if self._file.tell() > self._part_bytes + self._record_bytes_max:
            at = (self._begin.position if self._begin else 0) + self._part_bytes
            what = f"the record at byte {at} of the text is longer than {self._record_bytes_max} bytes"
            raise SplitError(f"{self._uri}: {what}, the most that a record may have")

    def _end_part(self, end: Cut, done: list[_PartFile]) -> None:
        if self._file is not None and self._begin is not None:
            self._file.close()
            self._file = None
            done.append(_PartFile(self._path(), self._begin, end))
            self._count += 1
        self._begin = end

    def _path(self) -> Path:
        return self._directory / f"part-{self._count:08d}{FORMATS[self._cutter.format].suffix}"


async def _windows(object_: PinnedObject, last: bytes | None = None) -> AsyncIterator[bytes]:
    """The object's bytes in order, then `last`, if given. The next window is read while the caller uses this one."""
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
