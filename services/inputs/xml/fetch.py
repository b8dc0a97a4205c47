"""A part of an XML document as a document of its own: inside the tags of the elements around its records."""

from pathlib import Path
from typing import Any

from services.contract.task_input import ByteRange, Place
from services.inputs.fetched import FetchedInput
from services.inputs.places import Source
from services.inputs.reader import Step
from services.inputs.registry import part_suffix
from services.platform.transfer import download


async def fetch(s3: Any, part: ByteRange, directory: Path) -> FetchedInput:
    """Raises TaskError and OSError. The child checks the cuts, unless a walk has found them."""
    path = directory / f"input{part_suffix(part.location.key, part.format)}"
    header, footer = (part.header or "").encode(), part.options.get("footer")
    with path.open("xb") as file:
        file.write(header)
        size = await download(s3, part.location, file, etag=part.etag, start=part.start, end=part.end, crc32=part.crc32)
        file.write((footer or "").encode())
    place = part.source or Place(part.location, part.start)
    source: Source = {"uri": place.location.uri, "byte": place.byte - len(header)}
    checks = [] if part.options.get("scanned") else [_check(part, len(header), footer, source)]
    return FetchedInput(path, size, part.format, source=source, options=part.options, checks=checks)


def _check(part: ByteRange, header_bytes: int, footer: str | None, source: Source) -> Step:
    arguments = {
        "record_tag": part.options["record_tag"],
        "header_bytes": header_bytes,
        "footer_bytes": None if footer is None else len(footer.encode()),
        "source": source,
    }
    return {"format": part.format, "step": "check_cuts", "arguments": arguments}
