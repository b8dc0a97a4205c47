"""A Parquet object: cut between row groups, read off its footer."""

from typing import Any

from services.common.aws import Aws
from services.common.layout import Location
from services.common.parquet import ParquetError, read_footer
from services.common.spec import ParquetInput
from services.scheduler.splitters.chunk import Chunk, SplitError


async def split(aws: Aws, source: ParquetInput, cursor: dict[str, Any] | None) -> Chunk:
    """Raises SplitError if the object is no readable Parquet file."""
    try:
        footer, etag = await read_footer(aws.s3, Location.parse(source.uri))
    except ParquetError as error:
        raise SplitError(str(error)) from error
    groups = footer.num_row_groups
    inputs = [
        {
            "type": "row_groups",
            "uri": source.uri,
            "etag": etag,
            "first": first,
            "count": min(source.row_groups, groups - first),
        }
        for first in range(0, groups, source.row_groups)
    ]
    return Chunk(inputs, {}, done=True)
