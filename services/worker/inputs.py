"""A task's input, of whatever type, as a file or directory on the node's disk."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from services.common.layout import Location
from services.common.lifecycle import ClaimedTask
from services.worker import row_groups
from services.worker.child.errors import TaskError
from services.worker.transfer import all_or_none, download

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_SUFFIX_OF_FORMAT = {"jsonl": ".jsonl", "csv": ".csv", "text": ".txt"}
_PARTS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Input:
    """Where a task's input is, and how many bytes it is.

    `header_bytes` of them are the header that was put before a part. `extract` tells the child which row groups of
    which file to make the input of.
    """

    path: Path
    bytes: int
    format: str | None = None
    header_bytes: int = 0
    extract: dict[str, Any] | None = None


async def fetch_input(s3: Any, task: ClaimedTask, directory: Path) -> Input:
    """Put the task's input into the directory.

    Raises TaskError (input_missing, input_changed, input_invalid, input_unavailable) and OSError.
    """
    value = task.input
    match value["type"]:
        case "bytes":
            return await _fetch_bytes(s3, value, directory)
        case "object":
            return await _fetch_object(s3, value, directory)
        case "item":
            return _write_value(value["value"], directory / "input.json")
        case "index":
            return _write_value({"index": task.index, "count": value["count"]}, directory / "input.json")
        case "row_groups":
            return await _fetch_row_groups(s3, value, directory)
        case "outputs":
            return await _fetch_outputs(s3, value, directory)
        case unknown:
            raise TaskError("input_invalid", f"this worker knows no input of type {unknown!r}", retryable=False)


def suffix_of(name: str) -> str:
    """`.csv` or `.csv.gz`: what of a file's name or an object's URI says what is in it; also the empty string."""
    path = PurePosixPath(name)
    return path.with_suffix("").suffix + path.suffix if path.suffix in _COMPRESSED else path.suffix


async def _fetch_bytes(s3: Any, value: dict[str, Any], directory: Path) -> Input:
    """A range of lines, after the header of its object."""
    format = value.get("format", "text")
    path = directory / f"input{suffix_of(value['uri']) or _SUFFIX_OF_FORMAT[format]}"
    header = value.get("header", "").encode()
    with path.open("wb") as file:
        file.write(header)
        size = await download(
            s3, Location.parse(value["uri"]), file, etag=value.get("etag"), start=value["start"], end=value["end"]
        )
    return Input(path, size, format, header_bytes=len(header))


async def _fetch_object(s3: Any, value: dict[str, Any], directory: Path) -> Input:
    path = directory / f"input{suffix_of(value['uri'])}"
    with path.open("wb") as file:
        size = await download(s3, Location.parse(value["uri"]), file, etag=value.get("etag"))
    return Input(path, size)


def _write_value(value: Any, path: Path) -> Input:
    return Input(path, path.write_bytes(orjson.dumps(value)))


async def _fetch_row_groups(s3: Any, value: dict[str, Any], directory: Path) -> Input:
    source, wanted = directory / "source.parquet", range(value["first"], value["first"] + value["count"])
    size = await row_groups.fetch_row_groups(s3, Location.parse(value["uri"]), value.get("etag"), wanted, source)
    extract = {"source": str(source), "row_groups": list(wanted)}
    return Input(directory / "input.parquet", size, "parquet", extract=extract)


async def _fetch_outputs(s3: Any, value: dict[str, Any], directory: Path) -> Input:
    """A directory with one file for each line of the listing."""
    listing, target = directory / "listing.jsonl", directory / "input"
    target.mkdir()
    with listing.open("wb") as file:
        await download(s3, Location.parse(value["uri"]), file)
    sizes: list[int] = []
    with listing.open("rb") as lines:

        async def fetch_some() -> None:
            for line in lines:
                sizes.append(await _fetch_output(s3, orjson.loads(line), target))

        await all_or_none(*(fetch_some() for _ in range(_PARTS_AT_ONCE)))
    return Input(target, sum(sizes))


async def _fetch_output(s3: Any, output: dict[str, Any], directory: Path) -> int:
    """One task's output: its object, or its small value as JSON."""
    name = f"{output['index']:08d}"
    if "uri" not in output:
        return _write_value(output.get("value"), directory / f"{name}.json").bytes
    with (directory / f"{name}{suffix_of(output['uri'])}").open("wb") as file:
        return await download(s3, Location.parse(output["uri"]), file)
