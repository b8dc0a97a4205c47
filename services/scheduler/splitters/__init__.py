"""Splitters: each cuts one type of input into task inputs, a chunk at a time, resumable from its cursor.

A splitter reads no more than it must (line ends, footers, listings): its work grows with the parts, not the bytes.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from services.common.aws import Aws
from services.common.spec import Input
from services.scheduler.splitters import index_range, items, lines, objects, parquet
from services.scheduler.splitters.chunk import Chunk, SplitError

__all__ = ["Chunk", "SplitError", "split"]

_SPLITTERS: dict[str, Callable[[Aws, Any, Any], Awaitable[Chunk]]] = {
    "lines": lines.split,
    "objects": objects.split,
    "items": items.split,
    "range": index_range.split,
    "parquet": parquet.split,
}


async def split(aws: Aws, source: Input, cursor: dict[str, Any] | None) -> Chunk:
    """The next chunk of `source` after `cursor` (None: the first). Raises SplitError if it can never be split."""
    return await _SPLITTERS[source.type](aws, source, cursor)
