"""A Parquet object: cut between row groups, read off its footer."""

import asyncio
from typing import Any

from services.inputs.arrow_names import check_names_at
from services.inputs.chunk import Chunk
from services.inputs.footer import read_footer
from services.inputs.numbered_blocks import cut_between
from services.inputs.parquet.footer import arrow_schema, footer_bytes, parse_footer
from services.inputs.sizes import BlockGroup, choose_part_bytes, group_blocks
from services.inputs.spec import ParquetInput
from services.platform.reads import PinnedObject


async def split(s3: Any, source: ParquetInput, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    """Raises SplitError if the object is not a readable Parquet file."""
    object_ = await PinnedObject.find(s3, source.uri)
    footer = await read_metadata(object_)
    sizes = [footer.row_group(number).total_byte_size for number in range(footer.num_row_groups)]
    return cut_between("parquet", object_, _group(source, sizes, slots))


async def look(s3: Any, source: ParquetInput) -> None:
    """Raises SplitError."""
    await read_metadata(await PinnedObject.find(s3, source.uri))


async def read_metadata(object_: PinnedObject) -> Any:
    """The object's pyarrow.parquet.FileMetaData. Raises SplitError, and what S3's client raises."""
    uri, footer = object_.location.uri, await read_footer(object_, footer_bytes)
    metadata = await asyncio.to_thread(parse_footer, uri, footer)
    check_names_at(uri, arrow_schema(uri, metadata))
    return metadata


def _group(source: ParquetInput, sizes: list[int], slots: int) -> list[BlockGroup]:
    if source.row_groups is None:
        return group_blocks(sizes, choose_part_bytes(source, sum(sizes), slots))
    firsts = range(0, len(sizes), source.row_groups)
    groups = [sizes[first : first + source.row_groups] for first in firsts]
    return [BlockGroup(first, len(group), sum(group)) for first, group in zip(firsts, groups, strict=True)]
