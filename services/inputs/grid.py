"""Inputs that can only be split by reading every byte: a task on the grid does it (services/worker/split)."""

from typing import Any

from services.contract.task_input import GridSplit, Split
from services.inputs.sizes import choose_part_bytes
from services.inputs.spec import Input, Resplit, Streamed, StreamedObject
from services.platform.reads import PinnedObject

COMPRESSION_RATIO = 4  # a guess, if the decompressed size is unknown


def needs_grid(source: Input | Resplit) -> bool:
    """Whether a task splits the input: it is compressed, or its record ends can only be found by reading every byte."""
    return isinstance(source, Streamed) and source.needs_grid


async def split_task(s3: Any, source: Input, slots: int) -> Split | GridSplit:
    """The input of the task that splits `source`, even if `source` does not need a task. Raises SplitError."""
    said = source.model_dump(mode="json", exclude_defaults=True)
    if not isinstance(source, StreamedObject) or not source.needs_grid:
        return Split(said, slots)
    object_ = await PinnedObject.find(s3, source.uri)
    size = object_.size * (COMPRESSION_RATIO if source.compressed else 1)
    part_bytes = choose_part_bytes(source, size, slots)
    return GridSplit(said, object_.location, object_.etag, size, part_bytes)
