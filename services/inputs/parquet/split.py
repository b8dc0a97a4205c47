"""A Parquet object: cut between row groups, read off its footer."""

from typing import Any

from services.contract.location import Location
from services.contract.task_input import NumberedBlocks
from services.inputs.chunk import Chunk, SplitError
from services.inputs.parquet.footer import ParquetError, read_footer
from services.inputs.sizes import BlockGroup, choose_part_bytes, group_blocks
from services.inputs.spec import ParquetInput


async def split(s3: Any, source: ParquetInput, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    """Raises SplitError if the object is no readable Parquet file."""
    location = Location.parse(source.uri)
    try:
        footer, etag = await read_footer(s3, location)
    except ParquetError as error:
        raise SplitError(str(error)) from error
    sizes = [footer.row_group(number).total_byte_size for number in range(footer.num_row_groups)]
    groups = _group(source, sizes, slots)
    parts = [NumberedBlocks("parquet", location, group.first, group.count, etag, group.bytes) for group in groups]
    return Chunk([part.to_json() for part in parts], {}, done=True)


def _group(source: ParquetInput, sizes: list[int], slots: int) -> list[BlockGroup]:
    if source.row_groups is None:
        return group_blocks(sizes, choose_part_bytes(source, sum(sizes), slots))
    firsts = range(0, len(sizes), source.row_groups)
    groups = [sizes[first : first + source.row_groups] for first in firsts]
    return [BlockGroup(first, len(group), sum(group)) for first, group in zip(firsts, groups, strict=True)]
