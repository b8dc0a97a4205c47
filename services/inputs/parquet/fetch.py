"""Row groups of a Parquet object, read without reading the rest of it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.contract.location import Location
from services.contract.task_error import TaskError
from services.inputs.parquet.read import open_parquet
from services.inputs.sparse_copy import TAIL_BYTES, SparseCopy

_FOOTER_END = 8  # its length in four bytes, and "PAR1"


async def fetch_row_groups(s3: Any, source: Location, etag: str | None, row_groups: Sequence[int], path: Path) -> int:
    """Make a sparse copy of the object that holds its footer and these row groups; returns the bytes read.

    Readers that keep to these row groups can't tell it from a full copy. Raises TaskError.
    """
    copy = await SparseCopy.begin(s3, source, etag, path)
    tail = max(0, copy.size - TAIL_BYTES)
    await copy.fetch(tail, copy.size)
    footer_bytes = int.from_bytes(copy.tail(_FOOTER_END)[:4], "little") + _FOOTER_END
    await copy.fetch(min(tail, max(0, copy.size - footer_bytes)), tail)
    for start, end in await asyncio.to_thread(_locate, path, row_groups):
        await copy.fetch(start, end)
    return copy.read


def _locate(path: Path, row_groups: Sequence[int]) -> list[tuple[int, int]]:
    """The byte range of each row group; raises TaskError (input_invalid)."""
    with open_parquet(path) as file:
        metadata = file.metadata
        if row_groups[-1] >= metadata.num_row_groups:
            message = f"the Parquet file has {metadata.num_row_groups} row groups, the task wants {row_groups[-1]}"
            raise TaskError("input_invalid", message, retryable=False)
        return [_range(metadata.row_group(number)) for number in row_groups]


def _range(row_group: Any) -> tuple[int, int]:
    starts, ends = [], []
    for number in range(row_group.num_columns):
        column = row_group.column(number)
        start = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)))
        starts.append(start)
        ends.append(start + column.total_compressed_size)
    return min(starts), max(ends)
