"""Fetches a part of an object of lines: its header and a byte range, or compressed blocks for the child."""

from pathlib import Path
from typing import Any

from services.contract.task_input import ByteRange, CompressedBlocks, Place
from services.inputs.fetched import FetchedInput
from services.inputs.places import Source
from services.inputs.reader import Step
from services.inputs.registry import FORMATS, part_suffix
from services.platform.transfer import download


async def fetch(s3: Any, part: ByteRange | CompressedBlocks, directory: Path) -> FetchedInput:
    """Raises TaskError and OSError."""
    if isinstance(part, ByteRange):
        return await _fetch_range(s3, part, directory)
    return await _fetch_blocks(s3, part, directory)


async def _fetch_range(s3: Any, part: ByteRange, directory: Path) -> FetchedInput:
    path = directory / f"input{part_suffix(part.location.key, part.format)}"
    header = (part.header or "").encode()
    with path.open("xb") as file:
        file.write(header)
        size = await download(s3, part.location, file, etag=part.etag, start=part.start, end=part.end, crc32=part.crc32)
    place = part.source or Place(part.location, part.start)
    source: Source = {"uri": place.location.uri, "byte": place.byte - len(header)}
    return FetchedInput(path, size, part.format, len(header), source, part.options, [], _checks(part, source))


async def _fetch_blocks(s3: Any, part: CompressedBlocks, directory: Path) -> FetchedInput:
    (start, skip), (end, tail) = part.start, part.end
    compressed, index, header = directory / "source.blocks", directory / "blocks.index", part.header or ""
    with compressed.open("xb") as file:
        size = await download(s3, part.location, file, etag=part.etag, start=start, end=part.read_end)
    decompress = {
        "source": str(compressed),
        "index": str(index),
        "start": start,
        "compression": "gzip" if part.compression == "bgzip" else part.compression,
        "header": header,
        "whole": end - start,
        "skip": skip,
        "tail": tail,
    }
    path = directory / f"input{FORMATS[part.format].suffix}"
    source: Source = {"uri": part.location.uri, "byte": None, "blocks": str(index)}
    steps: list[Step] = [{"format": part.format, "step": "decompress", "arguments": decompress}]
    header_bytes = len(header.encode())
    return FetchedInput(path, size, part.format, header_bytes, source, part.options, steps, _checks(part, source))


def _checks(part: ByteRange | CompressedBlocks, source: Source) -> list[Step]:
    """The check that the records of CSV are whole."""
    if part.format not in ("csv", "tsv"):
        return []
    arguments = {"csv": part.options.get("csv"), "format": part.format, "source": source}
    return [{"format": part.format, "step": "check_quotes", "arguments": arguments}]
