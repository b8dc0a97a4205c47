"""An Arrow IPC file: cut between record batches, read off its footer."""

from typing import Any

from services.contract.task_input import NumberedBlocks
from services.inputs.arrow.footer import ArrowError, Range, footer_bytes, parse_blocks
from services.inputs.chunk import Chunk, SplitError
from services.inputs.sizes import choose_part_bytes, group_blocks
from services.inputs.spec import ArrowInput
from services.platform.reads import PinnedObject

_TAIL_BYTES = 65_536  # most footers fit into the first read


async def split(s3: Any, source: ArrowInput, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    """Raises SplitError if the object is no readable Arrow IPC file."""
    object_ = await PinnedObject.find(s3, source.uri)
    try:
        batches = await read_batches(object_)
    except ArrowError as error:
        raise SplitError(str(error)) from error
    sizes = [end - start for start, end in batches]
    groups = group_blocks(sizes, choose_part_bytes(source, sum(sizes), slots))
    place = object_.location
    parts = [NumberedBlocks("arrow", place, group.first, group.count, object_.etag, group.bytes) for group in groups]
    return Chunk([part.to_json() for part in parts], {}, done=True)


async def read_batches(object_: PinnedObject) -> list[Range]:
    """The byte ranges of the object's record batches; raises ArrowError."""
    uri, size = object_.location.uri, object_.size
    tail = await object_.read(max(0, size - _TAIL_BYTES), size)
    length = footer_bytes(uri, tail, size)
    if length > len(tail):
        tail = await object_.read(size - length, size)
    return parse_blocks(uri, tail[-length:])[1]
