"""Inputs that only a reader of every byte can split: a task of the grid does it (services/worker/split)."""

from typing import Any

from services.contract.task_input import GridSplit, Split
from services.inputs.sizes import choose_part_bytes
from services.inputs.spec import Input, LinesInput, LinesResplit
from services.platform.reads import PinnedObject

COMPRESSION_RATIO = 4  # guessed, where the size of what is compressed is not known


def needs_grid(source: Input | LinesResplit) -> bool:
    """Whether the input is split by a task: it is compressed, or its records may hold line ends."""
    return isinstance(source, LinesResplit) and (source.compressed is not None or source.multiline)


async def split_task(s3: Any, source: Input, slots: int) -> Split | GridSplit:
    """The input of the task that splits `source`, which may be one that needs no task. Raises SplitError."""
    said = source.model_dump(mode="json", exclude_defaults=True)
    if not isinstance(source, LinesInput) or not needs_grid(source):
        return Split(said, slots)
    object_ = await PinnedObject.find(s3, source.uri)
    size = object_.size * (COMPRESSION_RATIO if source.compressed else 1)
    part_bytes = choose_part_bytes(source, size, slots)
    return GridSplit(said, object_.location, object_.etag, size, part_bytes)
