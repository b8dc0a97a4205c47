"""An Arrow IPC file: cut between record batches, read off its footer. An Arrow IPC stream is one part."""

import asyncio
from typing import Any

from services.contract.task_input import WholeObject
from services.inputs.arrow.footer import ArrowError, Range, footer_bytes, parse_blocks, parse_schema
from services.inputs.arrow_names import check_names_at
from services.inputs.chunk import Chunk
from services.inputs.footer import read_footer
from services.inputs.magic import HEAD_BYTES, is_arrow_stream
from services.inputs.numbered_blocks import cut_between
from services.inputs.sizes import choose_part_bytes, group_blocks
from services.inputs.spec import ArrowInput
from services.platform.reads import PinnedObject


async def split(s3: Any, source: ArrowInput, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    """Raises SplitError if the object is not a readable Arrow IPC file."""
    object_ = await PinnedObject.find(s3, source.uri)
    if (batches := await _read_batches(object_)) is None:
        whole = WholeObject(object_.location, object_.etag, object_.size)
        return Chunk([whole.to_json()], {}, done=True)
    sizes = [end - start for start, end in batches]
    return cut_between("arrow", object_, group_blocks(sizes, choose_part_bytes(source, sum(sizes), slots)))


async def look(s3: Any, source: ArrowInput) -> None:
    """Raises SplitError."""
    await _read_batches(await PinnedObject.find(s3, source.uri))


async def _read_batches(object_: PinnedObject) -> list[Range] | None:
    """The byte ranges of the object's record batches; None for a stream, which does not tell them."""
    try:
        footer = await read_footer(object_, footer_bytes)
    except ArrowError:
        if is_arrow_stream(await object_.read(0, HEAD_BYTES)):
            return None
        raise
    uri = object_.location.uri
    check_names_at(uri, await asyncio.to_thread(parse_schema, uri, footer))
    return parse_blocks(uri, footer)[1]
