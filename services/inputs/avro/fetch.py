"""Blocks of an Avro object: after the file's header, with its schema, they are an Avro file."""

from pathlib import Path
from typing import Any

from services.contract.task_input import AvroBlocks
from services.inputs.fetched import FetchedInput
from services.platform.transfer import download


async def fetch(s3: Any, part: AvroBlocks, directory: Path) -> FetchedInput:
    """Raises TaskError and OSError."""
    path = directory / "input.avro"
    with path.open("xb") as file:
        for start, end in ((0, part.header_end), (part.start, part.end)):
            await download(s3, part.location, file, etag=part.etag, start=start, end=end)
    size = part.header_end + part.end - part.start
    return FetchedInput(path, size, part.format, source={"uri": part.location.uri, "byte": None})
