"""A task's input, of any type, as a file or directory on the node's disk."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from services.contract.location import Location
from services.contract.task_error import TaskError
from services.contract.task_input import (
    FormatPart,
    GridSplit,
    Index,
    Item,
    ObjectGroup,
    Outputs,
    Split,
    UnknownInput,
    WholeObject,
)
from services.contract.task_output import ListedOutput
from services.engine.attempt import ClaimedTask
from services.inputs.chunk import SplitError
from services.inputs.fetched import FetchedInput
from services.inputs.registry import FOLDERS, FORMATS, load, suffix_of
from services.platform.tracing import traced
from services.platform.transfer import download, for_each, object_bytes

_MODULES = {folder: load(folder, "fetch") for folder in FOLDERS}
_PARTS_AT_ONCE = 16
SOURCES = "sources.json"  # the object that each file of an input directory is, by the file's name


@traced("fetch")
async def fetch_input(s3: Any, task: ClaimedTask, directory: Path) -> FetchedInput:
    """Put the task's input into the directory.

    Raises TaskError (input_missing, input_changed, input_invalid, input_forbidden, input_unavailable) and OSError.
    """
    match task.input:
        case WholeObject() as object_:
            return await _fetch_object(s3, object_, directory)
        case ObjectGroup(objects):
            return await _fetch_objects(s3, objects, directory)
        case Item() | Index():
            return _write(encode_value(task) or b"", directory / "input.json")
        case Outputs() as outputs:
            return await _fetch_outputs(s3, outputs, directory)
        case UnknownInput(reason):
            raise TaskError("input_invalid", reason, retryable=False)
        case Split() | GridSplit():
            raise TaskError("input_invalid", "only a split task works on an input that is to be split", retryable=False)
        case part:
            return await _fetch_part(s3, part, directory)


def encode_value(task: ClaimedTask) -> bytes | None:
    """The file of an input that is a value; None if it is not."""
    match task.input:
        case Item(value):
            return orjson.dumps(value)
        case Index(count, number):
            return orjson.dumps({"index": task.index, "count": count} | ({} if number is None else {"number": number}))
        case _:
            return None


async def _fetch_part(s3: Any, part: FormatPart, directory: Path) -> FetchedInput:
    """Fetch a part of an object, by the `fetch` module of its format."""
    if part.format not in FORMATS:
        message = f"this worker knows no input of the format {part.format!r}"
        raise TaskError("input_invalid", message, retryable=False)
    try:
        fetched: FetchedInput = await _MODULES[FORMATS[part.format].folder].fetch(s3, part, directory)
    except SplitError as error:
        raise TaskError("input_invalid", str(error), retryable=False) from None
    return fetched


def input_filename(number: int, uri: str) -> str:
    """The name of a file in an input directory: its number comes first, so that the names sort in order."""
    return f"{number:08d}{suffix_of(uri)}"


async def _fetch_object(s3: Any, object_: WholeObject, directory: Path) -> FetchedInput:
    input = object_as_input(object_, directory)
    with input.path.open("xb") as file:
        return replace(input, bytes=await download_object(s3, object_, file))


def object_as_input(object_: WholeObject, directory: Path, size: int = 0) -> FetchedInput:
    """The file of a whole object in the directory, with this number of bytes."""
    path = directory / f"input{suffix_of(object_.location.key)}"
    return FetchedInput(path, size, source={"uri": object_.location.uri, "byte": 0})


async def download_object(s3: Any, object_: WholeObject, file: BinaryIO) -> int:
    """Write it to the file; returns how many bytes it has. Raises TaskError like `download`."""
    return await download(s3, object_.location, file, etag=object_.etag, version=object_.version, crc32=object_.crc32)


async def _fetch_objects(s3: Any, objects: Sequence[WholeObject], directory: Path) -> FetchedInput:
    """A directory with one file for each object, in order."""
    target = directory / "input"
    target.mkdir()
    sizes: list[int] = []

    async def fetch(numbered: tuple[int, WholeObject]) -> None:
        number, object_ = numbered
        with (target / input_filename(number, object_.location.key)).open("xb") as file:
            sizes.append(await download_object(s3, object_, file))

    await for_each(enumerate(objects), _PARTS_AT_ONCE, fetch)
    uris = (object_.location.uri for object_ in objects)
    named = {input_filename(number, uri): uri for number, uri in enumerate(uris)}
    _write(orjson.dumps(named), directory / SOURCES)
    return FetchedInput(target, sum(sizes))


def _write(body: bytes, path: Path) -> FetchedInput:
    with path.open("xb") as file:
        return FetchedInput(path, file.write(body))


async def _fetch_outputs(s3: Any, outputs: Outputs, directory: Path) -> FetchedInput:
    """A directory with one file for each line of the listing. A TaskError names all of the objects that are missing."""
    listing, target = directory / "listing.jsonl", directory / "input"
    target.mkdir()
    with listing.open("xb") as file:
        await download(s3, outputs.location, file, crc32=outputs.crc32)
    sizes: list[int] = []

    async def fetch(line: bytes) -> None:
        sizes.append(await _fetch_output(s3, _read_line(line), target))

    with listing.open("rb") as lines:
        try:
            await for_each(lines, _PARTS_AT_ONCE, fetch)
        except TaskError as error:
            if error.gone:
                error.gone = tuple({*error.gone, *await _find_missing(s3, listing)})
            raise
    return FetchedInput(target, sum(sizes))


def _read_line(line: bytes) -> ListedOutput:
    return ListedOutput.from_json(orjson.loads(line))


async def _fetch_output(s3: Any, output: ListedOutput, directory: Path) -> int:
    """Fetch one task's output: its object, or its small value as JSON."""
    if output.location is None:
        return _write(orjson.dumps(output.value), directory / input_filename(output.index, "value.json")).bytes
    with (directory / input_filename(output.index, output.location.uri)).open("xb") as file:
        return await download(s3, output.location, file, crc32=output.crc32)


async def _find_missing(s3: Any, listing: Path) -> list[Location]:
    """The listed objects that do not exist: where one is gone, others may be, and all can be made again at once."""
    missing: list[Location] = []

    async def look(line: bytes) -> None:
        if (location := _read_line(line).location) is None:
            return
        try:
            await object_bytes(s3, location, None)
        except TaskError as error:
            missing.extend(error.gone)

    with listing.open("rb") as lines:
        await for_each(lines, _PARTS_AT_ONCE, look)
    return missing
