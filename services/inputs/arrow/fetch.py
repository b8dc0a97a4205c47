"""Record batches of an Arrow IPC object, read without reading the rest of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.contract.location import Location
from services.contract.task_error import TaskError
from services.inputs.arrow.footer import ArrowError, footer_bytes, parse_blocks
from services.inputs.sparse_copy import TAIL_BYTES, SparseCopy

_MAGIC_BYTES = 8


async def fetch_record_batches(s3: Any, source: Location, etag: str | None, batches: Sequence[int], path: Path) -> int:
    """Make a sparse copy of the object that holds its footer, its dictionaries and these record batches.

    Returns the bytes read. Readers that keep to these batches can't tell it from a full copy. Raises TaskError.
    """
    copy = await SparseCopy.begin(s3, source, etag, path)
    try:
        tail = await _fetch_tail(copy, TAIL_BYTES)
        length = footer_bytes(source.uri, tail, copy.size)
        if length > len(tail):
            tail = await _fetch_tail(copy, length)
        dictionaries, blocks = parse_blocks(source.uri, tail[-length:])
    except ArrowError as error:
        raise TaskError("input_invalid", str(error), retryable=False) from None
    await copy.fetch(0, min(_MAGIC_BYTES, copy.size))
    for start, end in [*dictionaries, *(blocks[number] for number in batches)]:
        await copy.fetch(start, end)
    return copy.read


async def _fetch_tail(copy: SparseCopy, size: int) -> bytes:
    await copy.fetch(max(0, copy.size - size), copy.size)
    return copy.tail(size)
