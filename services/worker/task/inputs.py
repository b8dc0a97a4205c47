"""A task's input, of whatever type, as a file or directory on the node's disk."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from services.contract.location import Location
from services.contract.task_error import TaskError
from services.contract.task_input import (
    AvroBlocks,
    ByteRange,
    CompressedBlocks,
    Index,
    Item,
    NumberedBlocks,
    ObjectGroup,
    Outputs,
    Place,
    UnknownInput,
    WholeObject,
)
from services.engine.attempt import ClaimedTask
from services.inputs.arrow.fetch import fetch_record_batches
from services.inputs.parquet.fetch import fetch_row_groups
from services.inputs.suffixes import SUFFIX_OF_FORMAT
from services.platform.transfer import download, for_each

_COMPRESSED = (".gz", ".bgz", ".bz2", ".xz", ".zst")
_PARTS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Input:
    """Where a task's input is, and how many bytes of it were fetched.

    `header_bytes` of the file are the header that was put before a part. `source` is the object that the part is of,
    and at which byte of its text the file would begin, if it can be told; or which file tells of its blocks.
    `options` are what a reader of the format has to know besides. `steps` are what the child has to do first, to make
    the input of what was fetched, and `checks` what it has to make sure of (child/prepare).
    """

    path: Path
    bytes: int
    format: str | None = None
    header_bytes: int = 0
    source: dict[str, Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)


async def fetch_input(s3: Any, task: ClaimedTask, directory: Path) -> Input:
    """Put the task's input into the directory.

    Raises TaskError (input_missing, input_changed, input_invalid, input_unavailable) and OSError.
    """
    match task.input:
        case ByteRange() as part:
            return await _fetch_bytes(s3, part, directory)
        case CompressedBlocks() as part:
            return await _fetch_blocks(s3, part, directory)
        case NumberedBlocks("parquet") as part:
            return await _fetch_row_groups(s3, part, directory)
        case NumberedBlocks("arrow") as part:
            return await _fetch_record_batches(s3, part, directory)
        case AvroBlocks() as part:
            return await _fetch_avro_blocks(s3, part, directory)
        case WholeObject() as object_:
            return await _fetch_object(s3, object_, directory)
        case ObjectGroup(objects):
            return await _fetch_objects(s3, objects, directory)
        case Item(value):
            return _write_value(value, directory / "input.json")
        case Index(count):
            return _write_value({"index": task.index, "count": count}, directory / "input.json")
        case Outputs(location):
            return await _fetch_outputs(s3, location, directory)
        case UnknownInput(reason):
            raise TaskError("input_invalid", reason, retryable=False)
        case other:
            raise TaskError("input_invalid", f"this processor cannot work on {other!r:.500}", retryable=False)


def suffix_of(name: str) -> str:
    """`.csv` or `.csv.gz`: what of a file's name or an object's URI says what is in it; also the empty string."""
    path = PurePosixPath(name)
    return path.with_suffix("").suffix + path.suffix if path.suffix in _COMPRESSED else path.suffix


def _plain_suffix(uri: str) -> str:
    """That of a part of it: bytes are only cut out of what is not compressed, whatever it is called."""
    path = PurePosixPath(uri)
    return path.with_suffix("").suffix if path.suffix in _COMPRESSED else path.suffix


def input_filename(number: int, uri: str) -> str:
    """What a file of an input directory is called: by its number, so that the names are in order."""
    return f"{number:08d}{suffix_of(uri)}"


async def _fetch_bytes(s3: Any, part: ByteRange, directory: Path) -> Input:
    """A range of records, after the header of its object."""
    path = directory / f"input{_plain_suffix(part.location.key) or SUFFIX_OF_FORMAT[part.format]}"
    header = (part.header or "").encode()
    with path.open("wb") as file:
        file.write(header)
        size = await download(s3, part.location, file, etag=part.etag, start=part.start, end=part.end)
    place = part.source or Place(part.location, part.start)
    source = {"uri": place.location.uri, "byte": place.byte - len(header)}
    return _part(part, path, size, len(header), source)


async def _fetch_blocks(s3: Any, part: CompressedBlocks, directory: Path) -> Input:
    """Compressed blocks, which the child will decompress."""
    (start, skip), (end, tail) = part.start, part.end
    compressed, index = directory / "source.blocks", directory / "blocks.index"
    with compressed.open("wb") as file:
        size = await download(s3, part.location, file, etag=part.etag, start=start, end=part.read_end)
    header = part.header or ""
    decompress = {
        "step": "decompress",
        "source": str(compressed),
        "index": str(index),
        "start": start,
        "compression": "gzip" if part.compression == "bgzip" else part.compression,
        "header": header,
        "whole": end - start,
        "skip": skip,
        "tail": tail,
    }
    path = directory / f"input{SUFFIX_OF_FORMAT[part.format]}"
    source = {"uri": part.location.uri, "byte": None, "blocks": str(index)}
    return _part(part, path, size, len(header.encode()), source, decompress)


def _part(
    part: ByteRange | CompressedBlocks,
    path: Path,
    size: int,
    header_bytes: int,
    source: dict[str, Any],
    *steps: dict[str, Any],
) -> Input:
    """Some records of an object; that they are whole is checked."""
    checks = list[dict[str, Any]]()
    if part.format in ("csv", "tsv"):
        csv = part.options.get("csv")
        checks.append({"step": "check_quotes", "csv": csv, "format": part.format, "source": source})
    return Input(path, size, part.format, header_bytes, source, dict(part.options), list(steps), checks)


async def _fetch_object(s3: Any, object_: WholeObject, directory: Path) -> Input:
    path = directory / f"input{suffix_of(object_.location.key)}"
    with path.open("wb") as file:
        size = await download(s3, object_.location, file, etag=object_.etag)
    return Input(path, size, source={"uri": object_.location.uri, "byte": 0})


async def _fetch_objects(s3: Any, objects: Sequence[WholeObject], directory: Path) -> Input:
    """A directory with one file for each object, in order."""
    target = directory / "input"
    target.mkdir()
    sizes: list[int] = []

    async def fetch(numbered: tuple[int, WholeObject]) -> None:
        number, object_ = numbered
        with (target / input_filename(number, object_.location.key)).open("wb") as file:
            sizes.append(await download(s3, object_.location, file, etag=object_.etag))

    await for_each(enumerate(objects), _PARTS_AT_ONCE, fetch)
    return Input(target, sum(sizes))


def _write_value(value: Any, path: Path) -> Input:
    return Input(path, path.write_bytes(orjson.dumps(value)))


async def _fetch_row_groups(s3: Any, part: NumberedBlocks, directory: Path) -> Input:
    source, wanted = directory / "source.parquet", part.numbers
    size = await fetch_row_groups(s3, part.location, part.etag, wanted, source)
    step = {"step": "row_groups", "source": str(source), "row_groups": list(wanted)}
    place = {"uri": part.location.uri, "byte": None}
    return Input(directory / "input.parquet", size, "parquet", source=place, steps=[step])


async def _fetch_record_batches(s3: Any, part: NumberedBlocks, directory: Path) -> Input:
    source, wanted = directory / "source.arrow", part.numbers
    size = await fetch_record_batches(s3, part.location, part.etag, wanted, source)
    step = {"step": "record_batches", "source": str(source), "batches": list(wanted)}
    place = {"uri": part.location.uri, "byte": None}
    return Input(directory / "input.arrow", size, "arrow", source=place, steps=[step])


async def _fetch_avro_blocks(s3: Any, part: AvroBlocks, directory: Path) -> Input:
    """The file's header, with its schema, and some of its blocks: together an Avro file."""
    path = directory / "input.avro"
    with path.open("wb") as file:
        for start, end in ((0, part.header_end), (part.start, part.end)):
            await download(s3, part.location, file, etag=part.etag, start=start, end=end)
    size = part.header_end + part.end - part.start
    return Input(path, size, "avro", source={"uri": part.location.uri, "byte": None})


async def _fetch_outputs(s3: Any, location: Location, directory: Path) -> Input:
    """A directory with one file for each line of the listing."""
    listing, target = directory / "listing.jsonl", directory / "input"
    target.mkdir()
    with listing.open("wb") as file:
        await download(s3, location, file)
    sizes: list[int] = []

    async def fetch(line: bytes) -> None:
        sizes.append(await _fetch_output(s3, orjson.loads(line), target))

    with listing.open("rb") as lines:
        await for_each(lines, _PARTS_AT_ONCE, fetch)
    return Input(target, sum(sizes))


async def _fetch_output(s3: Any, output: dict[str, Any], directory: Path) -> int:
    """One task's output: its object, or its small value as JSON."""
    if "uri" not in output:
        return _write_value(output.get("value"), directory / input_filename(output["index"], "value.json")).bytes
    with (directory / input_filename(output["index"], output["uri"])).open("wb") as file:
        return await download(s3, Location.parse(output["uri"]), file)
