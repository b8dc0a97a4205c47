"""Compressed objects that can be read from the middle (bgzip, zstd with a seek table) are split in place.

A part begins and ends at the start of a line, which is a pair: the compressed offset of a block (a gzip member, a zstd
frame), and a number of decompressed bytes after the block's start. Only a window of bytes is read for each part.
"""

import struct
from dataclasses import dataclass
from itertools import pairwise

from services.contract.task_input import CompressedBlocks
from services.inputs.lines.headers import HEADER_BYTES_MAX, Head, find_head
from services.inputs.lines.split import part_options
from services.inputs.spec import LinesInput, StreamedObject
from services.platform.concurrency import map_at_most
from services.platform.decompress import Decompressor
from services.platform.reads import PinnedObject
from services.worker.split.meter import Meter

_READS_AT_ONCE = 16
_WINDOW_BYTES = 65_536
_BLOCK_BYTES_MAX = 65_536  # of a bgzip block
_BGZIP_BEGIN = b"\x1f\x8b\x08\x04"
_BGZIP_END_BYTES = 28  # an empty block
_BGZIP_HEADER = struct.Struct("<12s2sHH")  # with only the BC field, as all writers make it
_SEEK_TABLE_MAGIC = 0x8F92EAB1
_SEEK_TABLE_FOOTER = struct.Struct("<IBI")
_SKIPPABLE_HEADER_BYTES = 8


class NotInPlace(Exception):
    """The object must be decompressed from its start."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """A line's start: `skip` decompressed bytes after the block at `block`; to find it, read up to `read_end`."""

    block: int
    skip: int
    read_end: int


async def find_parts(
    object_: PinnedObject, source: StreamedObject, part_bytes: int, meter: Meter
) -> list[CompressedBlocks]:
    """Raises NotInPlace, SplitError and DamagedStream."""
    if (
        not isinstance(source, LinesInput)
        or source.multiline
        or source.record_bytes
        or (source.csv and source.csv.escape)
    ):
        raise NotInPlace  # only a reader of everything before knows whether a line end there ends a record
    kind = "bgzip" if source.compressed == "gzip" else "zstd"
    begin = await object_.read(0, 2 * _BLOCK_BYTES_MAX + _BGZIP_HEADER.size)
    if kind == "bgzip":
        targets, end = await _bgzip_targets(object_, begin, part_bytes)
    else:
        targets, end = await _zstd_targets(object_, part_bytes)
    head, records_follow = await _find_head(object_, source, meter)
    if not records_follow:
        return []
    stretches = list(pairwise([*targets, end]))
    found = await map_at_most(_READS_AT_ONCE, lambda stretch: _find_line(object_, source, *stretch, meter), stretches)
    cuts = [_Cut(0, head.bytes, 0), *(each for each in found if each is not None), _Cut(end, 0, end)]
    place, etag, options = object_.location, object_.etag, part_options(head.told(source))
    return [
        CompressedBlocks(
            place, kind, (a.block, a.skip), (b.block, b.skip), b.read_end, source.format, etag, head.header, options
        )
        for a, b in pairwise(cuts)
    ]


async def _find_head(object_: PinnedObject, source: LinesInput, meter: Meter) -> tuple[Head, bool]:
    """The bytes before the first record, and whether there is a record."""
    decompressor, text, position = Decompressor(source.compressed or ""), b"", 0
    while True:
        data = await object_.read(position, position + _WINDOW_BYTES)
        position += len(data)
        text += await meter.in_thread(_decompress_some, decompressor, data, HEADER_BYTES_MAX + 1 - len(text))
        last = not data or len(text) > HEADER_BYTES_MAX
        head = await meter.in_thread(find_head, text, source, last)
        if head is not None:
            return head, len(text) > head.bytes or position < object_.size


def _decompress_some(decompressor: Decompressor, data: bytes, enough: int) -> bytes:
    """The data, decompressed; no more than needed, since it may be a zip bomb."""
    text = b""
    for piece in decompressor.feed(data):
        text += piece
        if len(text) >= enough:
            break
    return text


async def _find_line(object_: PinnedObject, source: LinesInput, block: int, limit: int, meter: Meter) -> _Cut | None:
    """The first start of a line after the block's start; None if there is none before the compressed byte `limit`."""
    search, position, window = _LineSearch(source.compressed or "", block), block, _WINDOW_BYTES
    while position < limit:
        data = await object_.read(position, min(position + window, limit))
        position += len(data)
        if (cut := await meter.in_thread(search.feed, data, position)) is not None:
            return cut
        window = min(window * 2, 8 << 20)
    return None  # the end of the text is not the start of a part


class _LineSearch:
    """Finds the first start of a line that is not empty, from the bytes of a block and those after it."""

    def __init__(self, compression: str, block: int) -> None:
        self._decompressor = Decompressor(compression)
        self._block = block
        self._skip = 0
        self._cut: _Cut | None = None

    def feed(self, data: bytes, read_end: int) -> _Cut | None:
        for piece in self._decompressor.feed(data):
            if self._cut is not None:
                return self._cut
            if found := piece.find(b"\n") + 1:
                self._cut = _Cut(self._block, self._skip + found, read_end)
                if found < len(piece):
                    return self._cut
            self._skip += len(piece)
        return None


async def _bgzip_targets(object_: PinnedObject, begin: bytes, part_bytes: int) -> tuple[list[int], int]:
    """Block starts, about a part's bytes apart (by the compression ratio of the first blocks); and the end."""
    if _block_bytes(begin, 0) is None:
        raise NotInPlace
    compressed = text = 0
    while (size := _block_bytes(begin, compressed)) is not None and compressed + size <= len(begin):
        compressed += size
        text += int.from_bytes(begin[compressed - 4 : compressed], "little")
    step = max(1, part_bytes * compressed // max(text, 1))
    targets = range(step, object_.size, step)
    found = await map_at_most(_READS_AT_ONCE, lambda target: _find_block(object_, target), targets)
    return sorted({block for block in found if block < object_.size}), object_.size


async def _find_block(object_: PinnedObject, target: int) -> int:
    """The first block at or after `target`. Raises NotInPlace if there is none, because of ordinary gzip in between."""
    data = await object_.read(target, target + 2 * _BLOCK_BYTES_MAX + _BGZIP_HEADER.size)
    at_end = target + len(data) == object_.size
    position = data.find(_BGZIP_BEGIN)
    while position >= 0:
        size = _block_bytes(data, position)
        if size is not None:
            follows = position + size
            if _block_bytes(data, follows) is not None or (at_end and follows == len(data)):
                return target + position
        position = data.find(_BGZIP_BEGIN, position + 1)
    if object_.size - target < _BGZIP_END_BYTES:
        return object_.size
    raise NotInPlace


def _block_bytes(data: bytes, position: int) -> int | None:
    """The size of the bgzip block at the position; None if there is no block."""
    if position + _BGZIP_HEADER.size > len(data) or not data.startswith(_BGZIP_BEGIN, position):
        return None
    _, field, length, size = _BGZIP_HEADER.unpack_from(data, position)
    return size + 1 if (field, length) == (b"BC", 2) else None


async def _zstd_targets(object_: PinnedObject, part_bytes: int) -> tuple[list[int], int]:
    """Frame starts from the seek table, at least a part's bytes apart; and the end of the last frame."""
    frames, end = await _read_seek_table(object_)
    targets, compressed, text, next_ = [], 0, 0, part_bytes
    for frame_bytes, text_bytes in frames:
        if text >= next_:
            targets.append(compressed)
            next_ = text + part_bytes
        compressed += frame_bytes
        text += text_bytes
    if compressed != end:
        raise NotInPlace
    return targets, end


async def _read_seek_table(object_: PinnedObject) -> tuple[list[tuple[int, int]], int]:
    """The compressed and decompressed size of each frame, and where the table begins."""
    footer = await object_.read(max(0, object_.size - _SEEK_TABLE_FOOTER.size), object_.size)
    if len(footer) < _SEEK_TABLE_FOOTER.size:
        raise NotInPlace
    count, flags, magic = _SEEK_TABLE_FOOTER.unpack(footer)
    if magic != _SEEK_TABLE_MAGIC:
        raise NotInPlace
    entry = struct.Struct("<II4x" if flags & 0x80 else "<II")
    start = object_.size - _SEEK_TABLE_FOOTER.size - count * entry.size
    if start < _SKIPPABLE_HEADER_BYTES:
        raise NotInPlace
    table = await object_.read(start, start + count * entry.size)
    return list(entry.iter_unpack(table)), start - _SKIPPABLE_HEADER_BYTES
