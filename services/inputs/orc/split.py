"""An ORC object: cut between stripes, read off its footer."""

import asyncio
from typing import Any

from services.inputs.chunk import Chunk
from services.inputs.footer import read_footer
from services.inputs.numbered_blocks import cut_between
from services.inputs.orc.tail import Stripe, Tail, footer_bytes, parse_tail
from services.inputs.sizes import choose_part_bytes, group_blocks
from services.inputs.spec import OrcInput
from services.platform.reads import PinnedObject


async def split(s3: Any, source: OrcInput, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    """Raises SplitError if the object is not a readable ORC file."""
    object_ = await PinnedObject.find(s3, source.uri)
    sizes = [stripe.bytes for stripe in await _read_stripes(object_)]
    return cut_between("orc", object_, group_blocks(sizes, choose_part_bytes(source, sum(sizes), slots)))


async def look(s3: Any, source: OrcInput) -> None:
    """Raises SplitError."""
    await _read_stripes(await PinnedObject.find(s3, source.uri))


async def read_tail(object_: PinnedObject) -> Tail | None:
    """None for an empty object: Hive writes a file without rows like that. Raises SplitError."""
    if object_.size == 0:
        return None
    uri, tail = object_.location.uri, await read_footer(object_, footer_bytes)
    return await asyncio.to_thread(parse_tail, uri, tail, object_.size)


async def _read_stripes(object_: PinnedObject) -> list[Stripe]:
    tail = await read_tail(object_)
    return tail.stripes if tail else []
