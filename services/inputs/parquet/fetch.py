"""Row groups of a Parquet object: their unchanged bytes and a new footer make a Parquet file."""

import asyncio
from pathlib import Path
from typing import Any

from services.contract.task_input import NumberedBlocks
from services.inputs.fetched import FetchedInput
from services.inputs.numbered_blocks import check_numbers
from services.inputs.parquet.footer import MAGIC, footer_bytes
from services.inputs.parquet.tail import make_tail, parse_tail
from services.inputs.sparse_copy import SparseCopy
from services.platform.transfer import download


async def fetch(s3: Any, part: NumberedBlocks, directory: Path) -> FetchedInput:
    """Raises TaskError, SplitError and OSError."""
    location, path = part.location, directory / "input.parquet"
    copy = await SparseCopy.begin(s3, location, part.etag, directory / "source.parquet")
    tail = await asyncio.to_thread(parse_tail, location.uri, await copy.fetch_footer(footer_bytes))
    check_numbers(part, len(tail.row_groups))
    moved = []
    with path.open("xb") as file:
        file.write(MAGIC)
        for group in map(tail.row_group, part.numbers):
            moved.append((group, file.tell() - group.start))
            await download(s3, location, file, etag=part.etag, start=group.start, end=group.end)
        size = file.tell() - len(MAGIC)
        file.write(make_tail(tail, moved))
    return FetchedInput(path, copy.read + size, part.format, source={"uri": location.uri, "byte": None})
