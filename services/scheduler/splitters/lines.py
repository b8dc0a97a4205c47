"""Line-oriented objects: cut by byte range, each cut moved to the next line's start by a small ranged read."""

import asyncio
from itertools import pairwise
from typing import Any

from services.common.aws import Aws
from services.common.layout import Location
from services.common.spec import LinesInput
from services.scheduler.reads import read_range
from services.scheduler.splitters.chunk import TASKS_MAX, Chunk, SplitError

PARTS_PER_CHUNK = 128
READS_AT_ONCE = 16
WINDOW_BYTES = 4096  # doubled until it holds a line end
HEADER_BYTES_MAX = 65_536


async def split(aws: Aws, source: LinesInput, cursor: dict[str, Any] | None) -> Chunk:
    """Raises SplitError if the first line of a CSV is no header, or if there would be too many parts."""
    text = _Text(aws, Location.parse(source.uri))
    if cursor is None:
        cursor = await _first_cursor(text, source)
    text.etag, size = cursor["etag"], cursor["bytes"]
    targets = range(cursor["target"] + source.part_bytes, size, source.part_bytes)[:PARTS_PER_CHUNK]
    gate = asyncio.Semaphore(READS_AT_ONCE)

    async def cut(target: int) -> int | None:
        async with gate:
            return await text.line_start(target, min(target + source.part_bytes, size))

    found = await asyncio.gather(*(cut(target) for target in targets))
    cuts = [cursor["start"], *(start for start in found if start is not None)]
    done = len(targets) < PARTS_PER_CHUNK
    if done:
        cuts.append(size)
    part = {"type": "bytes", "uri": source.uri, "etag": text.etag, "format": source.format}
    if cursor["header"] is not None:
        part["header"] = cursor["header"]
    inputs = [part | {"start": a, "end": b} for a, b in pairwise(cuts) if a < b]
    target = targets[-1] if targets else cursor["target"]
    return Chunk(inputs, cursor | {"start": cuts[-1], "target": target}, done)


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
        if "\0" in header:
            raise SplitError(f"{source.uri}: the CSV header (first line) holds NUL characters; is this UTF-16?")
    if size // source.part_bytes >= TASKS_MAX:
        raise SplitError(
            f"{source.uri} has {size} bytes: parts of {source.part_bytes} bytes would be more than {TASKS_MAX}; "
            "set a larger part_bytes"
        )
    return {"etag": text.etag, "bytes": size, "start": start, "target": start, "header": header}


class _Text:
    """Ranged reads of one object, all of the same version."""

    def __init__(self, aws: Aws, location: Location) -> None:
        self.aws = aws
        self.location = location
        self.etag = ""

    async def read(self, start: int, end: int) -> bytes:
        return await read_range(self.aws.s3, self.location, start, end, IfMatch=self.etag)

    async def line_start(self, target: int, end: int) -> int | None:
        """The first start of a line in `target … end - 1`, or None: no byte is read for two targets."""
        position, window = target - 1, WINDOW_BYTES
        while position < end - 1:
            data = await self.read(position, min(position + window, end - 1))
            found = data.find(b"\n")
            if found >= 0:
                return position + found + 1
            position += len(data)
            window = min(window * 2, 8_388_608)
        return None
