"""A preview of a split, from a few small reads: the first parts, and the total number."""

from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from services.contract.task_input import GridSplit, Json, TaskInput, parse_input
from services.inputs.chunk import Chunk
from services.inputs.grid import COMPRESSION_RATIO, needs_grid, split_task
from services.inputs.sample import spread
from services.inputs.spec import Input, RangeInput
from services.inputs.split import split

CHUNKS_MAX = 16  # limit of bytes read for one preview

_BY_TASK = "a task reads the whole object to split it; this is estimated from its size"
_BY_RATIO = f"{_BY_TASK}, as if it held {COMPRESSION_RATIO} times its compressed bytes"
_BY_SHARE = "estimated from the size; records longer than a part make fewer"
_AT_LEAST = "a lower bound: not everything was looked at"


@dataclass(slots=True)
class Preview:
    """Exact, unless `notes` say why not; `bytes` is None if sizes are unknown. `left_out` counts marker objects."""

    count: int = 0
    bytes: int | None = 0
    notes: list[str] = field(default_factory=list)
    left_out: int = 0
    part_bytes: int | None = None
    parts: list[Json] = field(default_factory=list)  # the first ones: task inputs
    samples: list[TaskInput] = field(default_factory=list)  # parts from all over the input, for their columns
    chunks_left: int = CHUNKS_MAX


async def preview(s3: Any, source: Input, slots: int, parts_max: int, before: Preview | None = None) -> Preview:
    """Add the preview of an input to that of the inputs `before`. Raises SplitError and the errors of S3's client."""
    made = before or Preview()
    if made.chunks_left == 0:
        _note(made, _AT_LEAST)
    elif needs_grid(source):
        await _add_estimate(s3, made, source, slots)
    else:
        await _add_chunks(s3, made, source, slots, parts_max)
    return made


async def _add_estimate(s3: Any, made: Preview, source: Any, slots: int) -> None:
    task = await split_task(s3, source, slots)
    made.chunks_left -= 1
    assert isinstance(task, GridSplit)
    made.part_bytes = task.part_bytes
    made.count += max(1, -(-task.bytes // task.part_bytes))
    _add_bytes(made, task.bytes)
    _note(made, _BY_RATIO if source.compressed else _BY_TASK)


async def _add_chunks(s3: Any, made: Preview, source: Input, slots: int, parts_max: int) -> None:
    cursor: dict[str, Any] | None = None
    count = 0
    total: int | None = 0
    while True:
        chunk = await split(s3, source, cursor, slots)
        cursor, count = chunk.cursor, count + chunk.tasks
        inputs = [parse_input(part) for part in chunk.inputs]
        total = _sum(total, *(input.bytes for input in inputs))
        made.samples += [inputs[number] for number in spread(len(inputs))]
        parts = (part for part in chunk.inputs for _ in range(chunk.repeat))
        made.parts += islice(parts, max(0, parts_max - len(made.parts)))
        made.chunks_left -= 1
        if chunk.done or made.chunks_left == 0 or len(made.parts) == parts_max:
            break
    made.part_bytes = cursor.get("part_bytes", made.part_bytes)
    made.left_out += cursor.get("left_out", 0)
    made.count += len(source.numbers) if isinstance(source, RangeInput) else _in_all(made, chunk, count)
    _add_bytes(made, cursor.get("bytes") if not chunk.done and chunk.share else total)


def _sum(*sizes: int | None) -> int | None:
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _in_all(made: Preview, chunk: Chunk, count: int) -> int:
    if chunk.done:
        return count
    if not chunk.share:
        _note(made, _AT_LEAST)
        return count
    _note(made, _BY_SHARE)
    return round(count / chunk.share)


def _add_bytes(made: Preview, size: int | None) -> None:
    made.bytes = _sum(made.bytes, size)


def _note(made: Preview, note: str) -> None:
    if note not in made.notes:
        made.notes.append(note)
