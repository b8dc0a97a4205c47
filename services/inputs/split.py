"""Splitters: each cuts one type of input into task inputs, a chunk at a time, resumable from its cursor.

A splitter reads as little as possible (line ends, footers, listings), so its work grows with the parts, not the bytes.
An input that can only be split by reading every byte goes to a task of the grid, which writes a listing of task inputs.
"""

from collections.abc import Sequence
from typing import Any

from services.inputs.chunk import TASKS_MAX, Chunk, SplitError
from services.inputs.grid import split_task
from services.inputs.registry import INPUT_TYPES, load
from services.inputs.spec import Input

_MODULES = {type: load(type, "split") for type in INPUT_TYPES}


async def look(s3: Any, source: Input) -> None:
    """Check with a few small reads that the input matches its type.

    Raises SplitError if it can never be split, and the errors of S3's client.
    """
    await _MODULES[source.type].look(s3, source)


async def split(s3: Any, source: Input, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    """The next chunk of `source` after `cursor` (None: the first), for a pool of `slots` slots.

    Raises SplitError if it can never be split.
    """
    chunk: Chunk = await _MODULES[source.type].split(s3, source, cursor, slots)
    return chunk


async def split_each(s3: Any, sources: Sequence[Input], cursor: dict[str, Any] | None, slots: int) -> Chunk:
    """The next chunk of several inputs, one after the other; `cursor["input"]` is the number of the current one.

    `cursor["left_out"]` counts the marker objects of the inputs before it.
    """
    cursor = cursor or {"input": 0, "at": None, "tasks": 0}
    number = cursor["input"]
    chunk = await split(s3, sources[number], cursor["at"], slots)
    tasks = cursor["tasks"] + chunk.tasks
    if tasks > TASKS_MAX:
        raise SplitError(f"the input is split into more than {TASKS_MAX} tasks; make the parts larger")
    next_ = {"input": number + chunk.done, "at": None if chunk.done else chunk.cursor, "tasks": tasks}
    if left_out := cursor.get("left_out", 0) + (chunk.cursor.get("left_out", 0) if chunk.done else 0):
        next_["left_out"] = left_out
    share = chunk.share if len(sources) == 1 else None
    return Chunk(chunk.inputs, next_, chunk.done and number == len(sources) - 1, chunk.repeat, share)


async def split_on_grid(s3: Any, sources: Sequence[Input], cursor: dict[str, Any] | None, slots: int) -> Chunk:
    """Like `split_each`, for a split stage: the task that splits the next input."""
    number = (cursor or {"input": 0})["input"]
    task = await split_task(s3, sources[number], slots)
    return Chunk([task.to_json()], {"input": number + 1}, number == len(sources) - 1)
