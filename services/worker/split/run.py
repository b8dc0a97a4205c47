"""One split task, from its input to the listing of its parts."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter

from services.contract.location import Location
from services.contract.task_error import TaskError
from services.contract.task_input import GridSplit, Json, Split, UnknownInput
from services.engine.attempt import ClaimedTask
from services.inputs.chunk import SplitError
from services.inputs.reach import Reach, ReachableS3
from services.inputs.registry import load
from services.inputs.spec import Input, StreamedObject
from services.inputs.split import split
from services.platform.decompress import DamagedStream
from services.platform.reads import PinnedObject
from services.platform.s3_faults import S3_ERRORS
from services.platform.transfer import input_error, object_bytes
from services.worker.split.blocks import NotInPlace, find_parts
from services.worker.split.meter import Meter
from services.worker.split.stream import cut_in_place, cut_into_objects

_INPUT: TypeAdapter[Input] = TypeAdapter(Input)


async def run_grid_split(
    meter: Meter, locate: Callable[[str], Location], reach: Reach, task: ClaimedTask, directory: Path
) -> tuple[Path, int]:
    """Write piecework-items.jsonl, one task input a line, into the directory; returns its path and the count.

    Decompressed parts become objects, which `locate` places by their names. Raises TaskError.
    """
    listing, count = directory / "piecework-items.jsonl", 0
    with listing.open("xb") as file:
        async for item in _items(meter, locate, reach, task, directory):
            file.write(orjson.dumps(item) + b"\n")
            count += 1
    return listing, count


async def _items(
    meter: Meter, locate: Callable[[str], Location], reach: Reach, task: ClaimedTask, directory: Path
) -> AsyncIterator[Json]:
    """The inputs of the next stage. Raises TaskError."""
    match task.input:
        case Split() as work:
            source = _INPUT.validate_python(work.source, extra="ignore")
            etag, items = None, _split_here(ReachableS3(meter.s3, reach, source), source, work.slots)
        case GridSplit() as work:
            etag, items = work.etag, _split_on_grid(meter, work, directory, locate)
        case UnknownInput(reason):
            raise TaskError("input_invalid", reason, retryable=False)
        case other:
            raise TaskError("input_invalid", f"this is not an input to split: {other!r:.500}", retryable=False)
    try:
        async for item in items:
            yield item
    except SplitError as error:
        raise TaskError("input_invalid", str(error), retryable=False) from None
    except DamagedStream as error:
        raise TaskError("input_invalid", f"{work.location.uri}: {error}", retryable=False) from None
    except S3_ERRORS as error:
        raise input_error(work.location, etag, error) from None


async def _split_on_grid(
    meter: Meter, work: GridSplit, directory: Path, locate: Callable[[str], Location]
) -> AsyncIterator[Json]:
    """The parts of an object whose every byte must be read. Raises SplitError, DamagedStream and S3's errors."""
    source, s3 = _INPUT.validate_python(work.source), meter.s3
    assert isinstance(source, StreamedObject)
    object_ = PinnedObject(s3, work.location, work.etag, await object_bytes(s3, work.location, work.etag))
    cutter = load(source.type, "cut").Cutter(source, work.part_bytes)
    if source.compressed is None:
        async for part in cut_in_place(object_, cutter, meter):
            yield part.to_json()
        return
    try:
        for blocks in await find_parts(object_, source, work.part_bytes, meter):
            yield blocks.to_json()
    except NotInPlace:
        async for part in cut_into_objects(
            object_, source.compressed, cutter, work.part_bytes, meter, directory, locate
        ):
            yield part.to_json()


async def _split_here(s3: Any, source: Input, slots: int) -> AsyncIterator[Json]:
    """The parts of an input that is split by small reads; another input of the job needs a task to split it."""
    cursor: dict[str, Any] | None = None
    while True:
        chunk = await split(s3, source, cursor, slots)
        for item in chunk.inputs:
            for _ in range(chunk.repeat):
                yield item
        if chunk.done:
            return
        cursor = chunk.cursor
