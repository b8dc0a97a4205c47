"""One split task, from its input to the listing of what it was split into."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter

from services.contract.layout import Layout
from services.contract.location import Location
from services.contract.task_error import TaskError
from services.engine.attempt import ClaimedTask
from services.inputs.chunk import SplitError
from services.inputs.lines.grid import needs_grid
from services.inputs.spec import Input, LinesInput
from services.inputs.split import split
from services.platform.decompress import DamagedStream
from services.platform.reads import PinnedObject
from services.platform.s3_faults import S3_ERRORS
from services.platform.transfer import input_error, object_bytes
from services.worker.split.blocks import NotInPlace, find_parts
from services.worker.split.meter import Meter
from services.worker.split.record_ends import OpenQuote
from services.worker.split.stream import cut_in_place, cut_into_objects

_INPUT: TypeAdapter[Input] = TypeAdapter(Input)


async def run_grid_split(meter: Meter, layout: Layout, task: ClaimedTask, directory: Path) -> tuple[Path, int]:
    """Write items.jsonl, a task input a line, into the directory; returns it and how many there are.

    What is decompressed becomes objects beside the task's other outputs. Raises TaskError.
    """
    source = _INPUT.validate_python(task.input["input"])
    listing, count = directory / "items.jsonl", 0
    try:
        with listing.open("wb") as file:
            async for item in _items(meter, layout, task, source, directory):
                file.write(orjson.dumps(item) + b"\n")
                count += 1
    except (SplitError, DamagedStream, OpenQuote) as error:
        where = "" if isinstance(error, SplitError) else f"{task.input['input']['uri']}: "
        raise TaskError("input_invalid", f"{where}{error}", retryable=False) from None
    except S3_ERRORS as error:
        location = Location.parse(task.input["input"].get("uri") or task.input["input"]["prefix"])
        raise input_error(location, task.input.get("etag"), error) from None
    return listing, count


async def _items(
    meter: Meter, layout: Layout, task: ClaimedTask, source: Input, directory: Path
) -> AsyncIterator[dict[str, Any]]:
    s3 = meter.s3
    if not isinstance(source, LinesInput) or not needs_grid(source):
        async for item in _split_here(s3, source, task.input["slots"]):
            yield item
        return
    location, etag, part_bytes = Location.parse(source.uri), task.input["etag"], task.input["part_bytes"]
    object_ = PinnedObject(s3, location, etag, await object_bytes(s3, location, etag))
    if not source.compressed:
        async for item in cut_in_place(object_, source, part_bytes, meter):
            yield item
        return
    try:
        for item in await find_parts(object_, source, part_bytes, meter):
            yield item
    except NotInPlace:

        def locate(filename: str) -> Location:
            return layout.attempt(task.job_id, task.stage, task.index, task.attempt, filename)

        async for item in cut_into_objects(object_, source, part_bytes, meter, directory, locate):
            yield item


async def _split_here(s3: Any, source: Input, slots: int) -> AsyncIterator[dict[str, Any]]:
    """An input that is split by small reads, of a job that has others beside it."""
    cursor: dict[str, Any] | None = None
    while True:
        chunk = await split(s3, source, cursor, slots)
        for item in chunk.inputs:
            for _ in range(chunk.repeat):
                yield item
        if chunk.done:
            return
        cursor = chunk.cursor
