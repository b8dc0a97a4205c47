"""Inputs that only a reader of every byte can split: a task of the grid does it (services/worker/split)."""

from typing import Any

from services.contract.task_input import GridSplit, Split
from services.inputs.sizes import choose_part_bytes
from services.inputs.spec import Input, Resplit, Streamed, StreamedObject
from services.platform.reads import PinnedObject

COMPRESSION_RATIO = 4  # guessed, where the size of what is compressed is not known


def needs_grid(source: Input | Resplit) -> bool:
    """Whether the input is split by a task: it is compressed, or only its bytes in order tell where records end."""
    return isinstance(source, Streamed) and source.needs_grid


async def split_task(s3: Any, source: Input, slots: int) -> Split | GridSplit:
    """The input of the task that splits `source`, which may be one that needs no task. Raises SplitError."""
    said = source.model_dump(mode="json", exclude_defaults=True)
    if not isinstance(source, StreamedObject) or not source.needs_grid:
        return Split(said, slots)
    object_ = await PinnedObject.find(s3, source.uri)
    size = object_.size * (COMPRESSION_RATIO if source.compressed else 1)
    part_bytes = choose_part_bytes(source, size, slots)
    return GridSplit(said, object_.location, object_.etag, size, part_bytes)
