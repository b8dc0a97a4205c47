"""A task's input, of whatever type, as a file or directory on the node's disk."""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from services.contract.location import Location
from services.contract.task_error import TaskError
from services.engine.attempt import ClaimedTask
from services.inputs.arrow.fetch import fetch_record_batches
from services.inputs.parquet.fetch import fetch_row_groups
from services.inputs.suffixes import SUFFIX_OF_FORMAT
from services.platform.transfer import download, for_each

_COMPRESSED = (".gz", ".bgz", ".bz2", ".xz", ".zst")
_OPTIONS = ("csv", "record_bytes")
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
    value = task.input
    match value["type"]:
        case "bytes":
            return await _fetch_bytes(s3, value, directory)
        case "blocks":
            return await _fetch_blocks(s3, value, directory)
        case "object":
            return await _fetch_object(s3, value, directory)
        case "objects":
            return await _fetch_objects(s3, value, directory)
        case "item":
            return _write_value(value["value"], directory / "input.json")
        case "index":
            return _write_value({"index": task.index, "count": value["count"]}, directory / "input.json")
        case "row_groups":
            return await _fetch_row_groups(s3, value, directory)
        case "record_batches":
            return await _fetch_record_batches(s3, value, directory)
        case "avro_blocks":
            return await _fetch_avro_blocks(s3, value, directory)
        case "outputs":
            return await _fetch_outputs(s3, value, directory)
        case unknown:
            raise TaskError("input_invalid", f"this worker knows no input of type {unknown!r}", retryable=False)


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


async def _fetch_bytes(s3: Any, value: dict[str, Any], directory: Path) -> Input:
    """A range of records, after the header of its object."""
    path = directory / f"input{_plain_suffix(value['uri']) or SUFFIX_OF_FORMAT[value.get('format', 'text')]}"
    header = value.get("header", "").encode()
    with path.open("wb") as file:
        file.write(header)
        size = await download(
            s3, Location.parse(value["uri"]), file, etag=value.get("etag"), start=value["start"], end=value["end"]
        )
    source = value.get("source") or {"uri": value["uri"], "byte": value["start"]}
    return _part(value, path, size, len(header), source | {"byte": source["byte"] - len(header)})


async def _fetch_blocks(s3: Any, value: dict[str, Any], directory: Path) -> Input:
    """Compressed blocks, which the child will decompress."""
    (start, skip), (end, tail) = value["start"], value["end"]
    compressed, index = directory / "source.blocks", directory / "blocks.index"
    with compressed.open("wb") as file:
        size = await download(
            s3, Location.parse(value["uri"]), file, etag=value.get("etag"), start=start, end=value["read_end"]
        )
    header = value.get("header", "")
    decompress = {
        "step": "decompress",
        "source": str(compressed),
        "index": str(index),
        "start": start,
        "compression": "gzip" if value["compression"] == "bgzip" else value["compression"],
        "header": header,
        "whole": end - start,
        "skip": skip,
        "tail": tail,
    }
    path = directory / f"input{SUFFIX_OF_FORMAT[value['format']]}"
    source = {"uri": value["uri"], "byte": None, "blocks": str(index)}
    return _part(value, path, size, len(header.encode()), source, decompress)


def _part(
    value: dict[str, Any],
    path: Path,
    size: int,
    header_bytes: int,
    source: dict[str, Any],
    *steps: dict[str, Any],
) -> Input:
    """Some records of an object; that they are whole is checked."""
    format, checks = value.get("format", "text"), list[dict[str, Any]]()
    if format in ("csv", "tsv"):
        checks.append({"step": "check_quotes", "csv": value.get("csv"), "format": format, "source": source})
    options = {name: value[name] for name in _OPTIONS if name in value}
    return Input(path, size, format, header_bytes, source, options, list(steps), checks)


async def _fetch_object(s3: Any, value: dict[str, Any], directory: Path) -> Input:
    path = directory / f"input{suffix_of(value['uri'])}"
    with path.open("wb") as file:
        size = await download(s3, Location.parse(value["uri"]), file, etag=value.get("etag"))
    return Input(path, size)


async def _fetch_objects(s3: Any, value: dict[str, Any], directory: Path) -> Input:
    """A directory with one file for each object, in order."""
    target = directory / "input"
    target.mkdir()
    sizes: list[int] = []

    async def fetch(numbered: tuple[int, dict[str, Any]]) -> None:
        number, object_ = numbered
        with (target / input_filename(number, object_["uri"])).open("wb") as file:
            size = await download(s3, Location.parse(object_["uri"]), file, etag=object_.get("etag"))
        sizes.append(size)

    await for_each(enumerate(value["objects"]), _PARTS_AT_ONCE, fetch)
    return Input(target, sum(sizes))


def _write_value(value: Any, path: Path) -> Input:
    return Input(path, path.write_bytes(orjson.dumps(value)))


async def _fetch_row_groups(s3: Any, value: dict[str, Any], directory: Path) -> Input:
    source, wanted = directory / "source.parquet", range(value["first"], value["first"] + value["count"])
    size = await fetch_row_groups(s3, Location.parse(value["uri"]), value.get("etag"), wanted, source)
    step = {"step": "row_groups", "source": str(source), "row_groups": list(wanted)}
    return Input(directory / "input.parquet", size, "parquet", steps=[step])


async def _fetch_record_batches(s3: Any, value: dict[str, Any], directory: Path) -> Input:
    source, wanted = directory / "source.arrow", range(value["first"], value["first"] + value["count"])
    location = Location.parse(value["uri"])
    size = await fetch_record_batches(s3, location, value.get("etag"), wanted, source)
    step = {"step": "record_batches", "source": str(source), "batches": list(wanted)}
    return Input(directory / "input.arrow", size, "arrow", steps=[step])


async def _fetch_avro_blocks(s3: Any, value: dict[str, Any], directory: Path) -> Input:
    """The file's header, with its schema, and some of its blocks: together an Avro file."""
    path, location = directory / "input.avro", Location.parse(value["uri"])
    with path.open("wb") as file:
        for start, end in ((0, value["header_end"]), (value["start"], value["end"])):
            await download(s3, location, file, etag=value.get("etag"), start=start, end=end)
    size = value["header_end"] + value["end"] - value["start"]
    return Input(path, size, "avro")


async def _fetch_outputs(s3: Any, value: dict[str, Any], directory: Path) -> Input:
    """A directory with one file for each line of the listing."""
    listing, target = directory / "listing.jsonl", directory / "input"
    target.mkdir()
    with listing.open("wb") as file:
        await download(s3, Location.parse(value["uri"]), file)
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
