"""Stripes of an ORC object: their unchanged bytes and a new tail make an ORC file."""

import asyncio
from pathlib import Path
from typing import Any

from services.contract.task_input import NumberedBlocks
from services.inputs.fetched import FetchedInput
from services.inputs.numbered_blocks import check_numbers
from services.inputs.orc.tail import MAGIC, footer_bytes, make_tail, parse_tail
from services.inputs.sparse_copy import SparseCopy
from services.platform.transfer import download


async def fetch(s3: Any, part: NumberedBlocks, directory: Path) -> FetchedInput:
    """Raises TaskError, SplitError and OSError."""
    location, path = part.location, directory / "input.orc"
    copy = await SparseCopy.begin(s3, location, part.etag, directory / "source.orc")
    tail = await asyncio.to_thread(parse_tail, location.uri, await copy.fetch_footer(footer_bytes), copy.size)
    check_numbers(part, len(tail.stripes))
    stripes = tail.stripes[part.first : part.first + part.count]
    start, end = stripes[0].start, stripes[-1].end
    with path.open("xb") as file:
        file.write(MAGIC)
        size = await download(s3, location, file, etag=part.etag, start=start, end=end)
        file.write(make_tail(tail, stripes, len(MAGIC) - start))
    return FetchedInput(path, copy.read + size, part.format, source={"uri": location.uri, "byte": None})
