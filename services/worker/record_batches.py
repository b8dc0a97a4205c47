"""Record batches of an Arrow IPC object, read without reading the rest of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.common.arrow import ArrowError, footer_bytes, parse_blocks
from services.common.layout import Location
from services.worker.child.errors import TaskError
from services.worker.transfer import download, object_bytes

_TAIL_BYTES = 1 << 16  # holds most footers
_MAGIC_BYTES = 8


async def fetch_record_batches(s3: Any, source: Location, etag: str | None, batches: Sequence[int], path: Path) -> int:
    """Make a sparse copy of the object that holds its footer, its dictionaries and these record batches.

    Returns the bytes read. Readers that keep to these batches can't tell it from a full copy. Raises TaskError.
    """
    size = await object_bytes(s3, source, etag)
    read = 0

    async def fetch(start: int, end: int) -> bytes:
        nonlocal read
        with path.open("r+b") as file:
            file.seek(start)
            read += await download(s3, source, file, etag=etag, start=start, end=end)
            file.seek(start)
            return file.read(end - start) if end == size else b""

    with path.open("wb") as file:
        file.truncate(size)
    try:
        tail = await fetch(max(0, size - _TAIL_BYTES), size)
        length = footer_bytes(source.uri, tail, size)
        if length > len(tail):
            tail = await fetch(size - length, size)
        dictionaries, blocks = parse_blocks(source.uri, tail[-length:])
    except ArrowError as error:
        raise TaskError("input_invalid", str(error), retryable=False) from None
    await fetch(0, min(_MAGIC_BYTES, size))
    for start, end in [*dictionaries, *(blocks[number] for number in batches)]:
        await fetch(start, end)
    return read
