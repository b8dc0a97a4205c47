"""Splitters: each cuts one type of input into task inputs, a chunk at a time, resumable from its cursor.

A splitter reads no more than it must (line ends, footers, listings): its work grows with the parts, not the bytes. What
only a reader of every byte can split is split by a task of the grid, which writes the task inputs to a listing.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from services.inputs.arrow import split as arrow
from services.inputs.avro import split as avro
from services.inputs.chunk import TASKS_MAX, Chunk, SplitError
from services.inputs.index_range import split as index_range
from services.inputs.items import split as items
from services.inputs.lines import split as lines
from services.inputs.lines.grid import split_task
from services.inputs.manifest import split as manifest
from services.inputs.objects import split as objects
from services.inputs.parquet import split as parquet
from services.inputs.spec import Input

_SPLITTERS: dict[str, Callable[[Any, Any, Any, int], Awaitable[Chunk]]] = {
    "lines": lines.split,
    "objects": objects.split,
    "manifest": manifest.split,
    "items": items.split,
    "range": index_range.split,
    "parquet": parquet.split,
    "arrow": arrow.split,
    "avro": avro.split,
}


async def split(s3: Any, source: Input, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    """The next chunk of `source` after `cursor` (None: the first), for a pool of so many slots.

    Raises SplitError if it can never be split.
    """
    return await _SPLITTERS[source.type](s3, source, cursor, slots)


async def split_each(s3: Any, sources: Sequence[Input], cursor: dict[str, Any] | None, slots: int) -> Chunk:
    """The next chunk of several inputs, one after the other; `cursor["input"]` is the number of the present one."""
    cursor = cursor or {"input": 0, "at": None, "tasks": 0}
    number = cursor["input"]
    chunk = await split(s3, sources[number], cursor["at"], slots)
    tasks = cursor["tasks"] + chunk.tasks
    if tasks > TASKS_MAX:
        raise SplitError(f"the input is split into more than {TASKS_MAX} tasks; make the parts larger")
    next_ = {"input": number + chunk.done, "at": None if chunk.done else chunk.cursor, "tasks": tasks}
    return Chunk(chunk.inputs, next_, chunk.done and number == len(sources) - 1, chunk.repeat)


async def split_on_grid(s3: Any, sources: Sequence[Input], cursor: dict[str, Any] | None, slots: int) -> Chunk:
    """As `split_each`, for a split stage: the next input's task, which splits it."""
    number = (cursor or {"input": 0})["input"]
    task = await split_task(s3, sources[number], slots)
    return Chunk([task.to_json()], {"input": number + 1}, number == len(sources) - 1)
