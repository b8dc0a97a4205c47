"""An Arrow IPC file: cut between record batches, read off its footer."""

from typing import Any

from services.inputs.arrow.footer import Range, footer_bytes, parse_blocks
from services.inputs.chunk import Chunk
from services.inputs.footer import read_footer
from services.inputs.numbered_blocks import cut_between
from services.inputs.sizes import choose_part_bytes, group_blocks
from services.inputs.spec import ArrowInput
from services.platform.reads import PinnedObject


async def split(s3: Any, source: ArrowInput, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    """Raises SplitError if the object is not a readable Arrow IPC file."""
    object_ = await PinnedObject.find(s3, source.uri)
    sizes = [end - start for start, end in await _read_batches(object_)]
    return cut_between("arrow", object_, group_blocks(sizes, choose_part_bytes(source, sum(sizes), slots)))


async def look(s3: Any, source: ArrowInput) -> None:
    """Raises SplitError."""
    await _read_batches(await PinnedObject.find(s3, source.uri))


async def _read_batches(object_: PinnedObject) -> list[Range]:
    """The byte ranges of the object's record batches."""
    return parse_blocks(object_.location.uri, await read_footer(object_, footer_bytes))[1]
