"""Line-oriented objects: cut by byte range, each cut moved to the next line's start by a small ranged read."""

import asyncio
from itertools import pairwise
from typing import Any

from services.common.aws import Aws
from services.common.layout import Location
from services.common.spec import LinesInput
from services.scheduler.splitters.chunk import Chunk, SplitError

PARTS_PER_CHUNK = 128
READS_AT_ONCE = 16
WINDOW_BYTES = 4096  # doubled until it holds a line end
HEADER_BYTES_MAX = 65_536


async def split(aws: Aws, source: LinesInput, cursor: dict[str, Any] | None) -> Chunk:
    """Raises SplitError if the first line of a CSV is too long for a header."""
    text = _Text(aws, Location.parse(source.uri))
    if cursor is None:
        cursor = await _first_cursor(text, source)
    text.etag, size, start = cursor["etag"], cursor["bytes"], cursor["start"]
    targets = list(range(start + source.part_bytes, size, source.part_bytes))[:PARTS_PER_CHUNK]
    gate = asyncio.Semaphore(READS_AT_ONCE)

    async def cut(target: int) -> int:
        async with gate:
            return await text.line_start(target, size)

    cuts = [start, *await asyncio.gather(*(cut(target) for target in targets))]
    done = len(targets) < PARTS_PER_CHUNK
    if done:
        cuts.append(size)
    part = {"type": "bytes", "uri": source.uri, "etag": text.etag, "format": source.format}
    if cursor["header"] is not None:
        part["header"] = cursor["header"]
    # Equal neighbours: one line spans several targets.
    inputs = [part | {"start": a, "end": b} for a, b in pairwise(cuts) if a < b]
    return Chunk(inputs, cursor | {"start": cuts[-1]}, done)


async def _first_cursor(text: "_Text", source: LinesInput) -> dict[str, Any]:
    head = await text.aws.s3.head_object(Bucket=text.location.bucket, Key=text.location.key)
    text.etag, size = head["ETag"], head["ContentLength"]
    header, start = None, 0
    if source.format == "csv" and size:
        line = await text.read(0, min(HEADER_BYTES_MAX, size))
        start = line.find(b"\n") + 1 or size
        if start > HEADER_BYTES_MAX or (start == size and size > len(line)):
            raise SplitError(f"{source.uri}: the CSV header (first line) is longer than {HEADER_BYTES_MAX} bytes")
        try:
            header = line[:start].decode()
        except UnicodeDecodeError as error:
            raise SplitError(f"{source.uri}: the CSV header (first line) is not UTF-8: {error}") from error
    return {"etag": text.etag, "bytes": size, "start": start, "header": header}


class _Text:
    """Ranged reads of one object, all of the same version."""

    def __init__(self, aws: Aws, location: Location) -> None:
        self.aws = aws
        self.location = location
        self.etag = ""

    async def read(self, start: int, end: int) -> bytes:
        answer = await self.aws.s3.get_object(
            Bucket=self.location.bucket, Key=self.location.key, Range=f"bytes={start}-{end - 1}", IfMatch=self.etag
        )
        async with answer["Body"] as body:
            data: bytes = await body.read()
            return data

    async def line_start(self, target: int, size: int) -> int:
        """The first start of a line at or after `target`; `size` if there is none."""
        position, window = target - 1, WINDOW_BYTES
        while position < size:
            data = await self.read(position, min(position + window, size))
            found = data.find(b"\n")
            if found >= 0:
                return position + found + 1
            position += len(data)
            window = min(window * 2, 8_388_608)
        return size
