"""Shared by the formats that are cut between numbered blocks (row groups, record batches)."""

from collections.abc import Sequence

from services.contract.task_error import TaskError
from services.contract.task_input import NumberedBlocks
from services.inputs.chunk import Chunk
from services.inputs.sizes import BlockGroup
from services.platform.reads import PinnedObject


def cut_between(format: str, object_: PinnedObject, groups: Sequence[BlockGroup]) -> Chunk:
    """All of an object's parts, one for each group of its blocks."""
    place, etag = object_.location, object_.etag
    parts = [NumberedBlocks(format, place, group.first, group.count, etag, group.bytes) for group in groups]
    return Chunk([part.to_json() for part in parts], {}, done=True)


def check_numbers(part: NumberedBlocks, count: int) -> None:
    """Raises TaskError (input_invalid) if the object, which has `count` blocks, lacks one of the part's."""
    if part.numbers[-1] >= count:
        wanted = f"{part.first} to {part.numbers[-1]}"
        message = f"{part.location.uri} has {count} blocks, from number 0 on; the task wants {wanted}"
        raise TaskError("input_invalid", message, retryable=False)
