"""Row groups of a Parquet object, read without reading the rest of it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.common.layout import Location
from services.worker.child.errors import TaskError
from services.worker.child.parquet import open_parquet
from services.worker.transfer import download, object_bytes

_TAIL_BYTES = 1 << 16  # holds most footers
_FOOTER_END = 8  # its length in four bytes, and "PAR1"


async def fetch_row_groups(s3: Any, source: Location, etag: str | None, row_groups: Sequence[int], path: Path) -> int:
    """Make a sparse copy of the object that holds its footer and these row groups; returns the bytes read.

    Readers that keep to these row groups can't tell it from a full copy. Raises TaskError.
    """
    size = await object_bytes(s3, source, etag)
    read = 0

    async def fetch(start: int, end: int) -> None:
        nonlocal read
        with path.open("r+b") as file:
            file.seek(start)
            read += await download(s3, source, file, etag=etag, start=start, end=end)

    _make_sparse(path, size)
    tail = max(0, size - _TAIL_BYTES)
    await fetch(tail, size)
    await fetch(min(tail, max(0, size - _footer_bytes(path))), tail)
    for start, end in await asyncio.to_thread(_locate, path, row_groups):
        await fetch(start, end)
    return read


def _make_sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _footer_bytes(path: Path) -> int:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _FOOTER_END))
        return int.from_bytes(file.read(4), "little") + _FOOTER_END


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
