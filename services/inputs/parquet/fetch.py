"""Row groups of a Parquet object: a sparse copy with its footer and their bytes, which the child turns into a file."""

import asyncio
from pathlib import Path
from typing import Any

from services.contract.task_input import NumberedBlocks
from services.inputs.fetched import FetchedInput
from services.inputs.numbered_blocks import check_numbers
from services.inputs.parquet.footer import footer_bytes, parse_footer, row_group_range
from services.inputs.sparse_copy import SparseCopy


async def fetch(s3: Any, part: NumberedBlocks, directory: Path) -> FetchedInput:
    """Raises TaskError, SplitError and OSError."""
    copy = await SparseCopy.begin(s3, part.location, part.etag, directory / "source.parquet")
    footer = await asyncio.to_thread(parse_footer, part.location.uri, await copy.fetch_footer(footer_bytes))
    check_numbers(part, footer.num_row_groups)
    for number in part.numbers:
        await copy.fetch(*row_group_range(footer.row_group(number)))
    return copy.as_input(part, "extract", directory / "input.parquet")
