"""Samples of records across all of a stage's task inputs, from which the types of their columns are found.

Small inputs are read whole. Of large ones, up to 64 tasks are looked at, and several places in each.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.contract.location import Location
from services.contract.task_error import Malformed, TaskError
from services.contract.task_input import ByteRange, CompressedBlocks, Item, ObjectGroup, TaskInput, WholeObject
from services.inputs.columns import Columns
from services.inputs.magic import HEAD_BYTES, recognise
from services.inputs.observed import Observed, as_fields
from services.inputs.registry import FORMATS, format_of, load
from services.platform.concurrency import map_at_most
from services.platform.decompress import DamagedStream, Decompressor
from services.platform.reads import PinnedObject

TASKS_MAX = 64
BYTES_MAX = 16 << 20
_TEXT_BYTES_MAX = 16 << 20  # of what is decompressed
_TEXT_PER_BYTE = 8  # and at most as many bytes of it as this for each that was to be read
_READS_AT_ONCE = 8
_PLACES = 4  # in an object that is not read whole
_CSV = ("csv", "tsv")
_SAMPLED = ("jsonl", "json", "xml", *_CSV)  # formats whose columns' types no file tells
_CSV_BYTES = 65_536  # hold the first record
_LINE_BYTES_MAX = 16 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """Some whole records as a file of their format has them; the last one may be cut."""

    format: str
    data: bytes
    options: dict[str, Any] = field(default_factory=dict)


def spread(count: int, most: int = TASKS_MAX) -> list[int]:
    """At most `most` of the indexes `0 … count - 1`, evenly spread, with the first and the last."""
    if count <= most:
        return list(range(count))
    return [number * (count - 1) // (most - 1) for number in range(most)]


async def find_columns(s3: Any, inputs: Sequence[TaskInput]) -> Columns | None:
    """The types of the columns of all records, from samples of these task inputs; None if none are found.

    Raises the errors of S3's client.
    """
    chosen = _without_further_csv(inputs)
    budget = BYTES_MAX // max(1, len(chosen))
    samples = await map_at_most(_READS_AT_ONCE, lambda input: _sample(s3, input, budget), chosen)
    observed = Observed()
    for input in inputs:
        if isinstance(input, Item):
            values = input.value if isinstance(input.value, list) else [input.value]
            for value in values:
                observed.add_fields(as_fields(value))
    return await asyncio.to_thread(_columns, [each for some in samples for each in some], observed)


def _without_further_csv(inputs: Sequence[TaskInput]) -> list[TaskInput]:
    """Of the parts of a CSV only the first: it has all columns."""
    of_csv = [isinstance(input, ByteRange | CompressedBlocks) and input.format in _CSV for input in inputs]
    return [input for number, input in enumerate(inputs) if not of_csv[number] or not any(of_csv[:number])]


def _columns(samples: Sequence[Sample], observed: Observed) -> Columns | None:
    text: Columns = {}
    for sample in samples:
        found = Observed() if FORMATS[sample.format].text_fields else observed
        _observe(sample, found)
        if found is not observed:
            text |= dict.fromkeys(found.fields, "text")
    return {**text, **observed.columns()} or None


def _observe(sample: Sample, observed: Observed) -> None:
    """Read the records as a task would; what can't be read is for the tasks to reject."""
    row = FORMATS[sample.format]
    with tempfile.NamedTemporaryFile(suffix=row.suffix) as file:
        file.write(sample.data)
        file.flush()
        reader = load(row.folder, "read").open_reader(Path(file.name), sample.format, sample.options)
        try:
            for raw in reader.raws():
                try:
                    record = reader.parse(raw)
                except Malformed:
                    continue
                if sample.format in _CSV:
                    if isinstance(record, list):
                        record = {f"column{number}": value for number, value in enumerate(record)}
                    observed.add_fields(record)
                    return  # the first record has all columns
                for each in record if sample.format == "json" and isinstance(record, list) else [record]:
                    observed.add_fields(as_fields(each))
        except TaskError:
            return


async def _sample(s3: Any, input: TaskInput, budget: int) -> list[Sample]:
    match input:
        case ByteRange(format=format) if format in _SAMPLED:
            object_ = PinnedObject(s3, input.location, input.etag or "", input.end) if input.etag else None
            object_ = object_ or await PinnedObject.find(s3, input.location.uri)
            pieces = await _pieces(object_, input.start, input.end, budget, format)
            head = (input.header or "").encode()
            return [Sample(format, head + piece, input.options) for piece in pieces]
        case CompressedBlocks(format=format) if format in _SAMPLED:
            start, skip = input.start
            compression = "gzip" if input.compression == "bgzip" else input.compression
            found = await PinnedObject.find(s3, input.location.uri)
            text = _decompressed(
                await found.read(start, min(input.read_end, start + budget)), compression, budget + skip
            )
            return [Sample(format, (input.header or "").encode() + _whole_lines(text[skip:]), input.options)]
        case ObjectGroup(objects):
            chosen = [objects[number] for number in spread(len(objects), max(1, min(len(objects), budget >> 14)))]
            each = max(1, budget // len(chosen))
            samples = await map_at_most(_READS_AT_ONCE, lambda one: _sample_object(s3, one.location, each), chosen)
            return [sample for some in samples for sample in some]
        case WholeObject():
            return await _sample_object(s3, input.location, budget)
    return []


async def _sample_object(s3: Any, location: Location, budget: int) -> list[Sample]:
    format = format_of(location.key)
    if format is None or format.name not in _SAMPLED:
        return []
    object_ = await PinnedObject.find(s3, location.uri)
    content = recognise(await object_.read(0, HEAD_BYTES))
    if content is not None and content.compression:
        data = _decompressed(await object_.read(0, budget), content.compression, budget)
        return [Sample(format.name, data if object_.size <= budget else _whole_lines(data))]
    if content is not None:
        return []  # it tells its columns, or the tasks refuse it
    pieces = await _pieces(object_, 0, object_.size, budget, format.name)
    return [Sample(format.name, piece) for piece in pieces]


async def _pieces(object_: PinnedObject, start: int, end: int, budget: int, format: str) -> list[bytes]:
    """All of the bytes, or whole lines from several places among them."""
    if end - start <= budget or format != "jsonl":
        size = min(budget, _CSV_BYTES) if format in _CSV else budget
        return [await object_.read(start, min(end, start + size))]
    window = budget // _PLACES
    step = (end - start - window) // (_PLACES - 1)
    places = [start + place * step for place in range(_PLACES)]
    return [await _lines_at(object_, place, window, end, drop_first=place > start) for place in places]


async def _lines_at(object_: PinnedObject, place: int, size: int, end: int, *, drop_first: bool) -> bytes:
    """Whole lines from a place on; one, at least, if it is not longer than _LINE_BYTES_MAX."""
    data = await object_.read(place, min(end, place + size))
    while not (lines := _whole_lines(data, drop_first=drop_first)) and place + len(data) < end:
        if len(data) >= _LINE_BYTES_MAX:
            break
        data += await object_.read(place + len(data), min(end, place + 4 * len(data)))
    return lines


def _whole_lines(data: bytes, *, drop_first: bool = False) -> bytes:
    begin = data.find(b"\n") + 1 if drop_first else 0
    return data[begin : data.rfind(b"\n") + 1]


def _decompressed(data: bytes, compression: str, budget: int) -> bytes:
    """The text of the beginning of a stream, some of it: all samples are in memory at once."""
    text, enough = bytearray(), min(_TEXT_BYTES_MAX, _TEXT_PER_BYTE * budget)
    with suppress(DamagedStream):
        for piece in Decompressor(compression).feed(data):
            text += piece
            if len(text) > enough:
                break
    return bytes(text[:enough])
