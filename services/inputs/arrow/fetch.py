"""Record batches of an Arrow IPC object: a sparse copy with only its footer, its dictionaries, and these batches."""

from pathlib import Path
from typing import Any

from services.contract.task_input import NumberedBlocks
from services.inputs.arrow.footer import footer_bytes, parse_blocks
from services.inputs.fetched import FetchedInput
from services.inputs.numbered_blocks import check_numbers
from services.inputs.sparse_copy import SparseCopy

_MAGIC_BYTES = 8


async def fetch(s3: Any, part: NumberedBlocks, directory: Path) -> FetchedInput:
    """Raises TaskError, SplitError and OSError."""
    copy = await SparseCopy.begin(s3, part.location, part.etag, directory / "source.arrow")
    dictionaries, batches = parse_blocks(part.location.uri, await copy.fetch_footer(footer_bytes))
    check_numbers(part, len(batches))
    await copy.fetch(0, min(_MAGIC_BYTES, copy.size))
    for start, end in [*dictionaries, *(batches[number] for number in part.numbers)]:
        await copy.fetch(start, end)
    return copy.as_input(part, "extract", directory / "input.arrow")
