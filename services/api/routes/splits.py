"""Preview how an input would be split, without running anything."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body

from services.api.connections import Api
from services.api.inputs import naming
from services.api.preview import preview
from services.api.problems import BODY
from services.api.security import Submitter
from services.api.shapes.splits import Split, SplitPart, SplitSpec
from services.api.strict_json import StrictRoute
from services.contract.task_input import UnknownInput, parse_input
from services.engine.places import check_inputs_reach, check_task_inputs
from services.inputs.groups import describe_markers
from services.inputs.reach import Reach, ReachableS3
from services.inputs.sample import find_columns, spread
from services.platform.problems import invalid, problems

router = APIRouter(prefix="/splits", tags=["jobs"], route_class=StrictRoute)

_NO_JOB = UUID(int=0)

EXAMPLES: Any = {
    "array": {"summary": "An array job", "value": {"input": {"type": "range", "count": 10}}},
    "csv": {
        "summary": "A CSV in about 100 parts",
        "value": {
            "input": {"type": "lines", "uri": "s3://piecework/uploads/flights.csv", "format": "csv", "parts": 100},
            "pool": "default",
            "parts_max": 5,
        },
    },
}


@router.post("", operation_id="preview_split", responses=problems(*BODY, 502), summary="Preview a split")
async def preview_split(
    caller: Submitter, api: Api, spec: Annotated[SplitSpec, Body(openapi_examples=EXAMPLES)]
) -> Split:
    """The first parts that an input would be cut into, and their total number.

    It takes only a few small reads, so for a large input the count is an estimate; `notes` say why.
    """
    slots = await api.database.fetchval("SELECT slots FROM pool_slots($1)", spec.pool)
    if slots is None:
        raise invalid("pool", spec.pool, "there is no such pool")
    sources = spec.input if isinstance(spec.input, list) else [spec.input]
    many = isinstance(spec.input, list)
    fields = {f"input.{number}" if many else "input": source for number, source in enumerate(sources)}
    await check_inputs_reach(api.database, fields, api.settings, caller.reader)
    reach, made = Reach(api.settings), None
    for field, source in fields.items():
        with naming(field, source):
            s3 = ReachableS3(api.aws.s3, reach, source)
            made = await preview(s3, source, slots, spec.parts_max, made)
            sampled = [known.to_json() for known in made.samples if not isinstance(known, UnknownInput)]
            await check_task_inputs(api.database, _NO_JOB, [*made.parts, *sampled], api.settings, caller.reader)
    assert made is not None
    parts = [SplitPart(index=index, bytes=parse_input(part).bytes, input=part) for index, part in enumerate(made.parts)]
    return Split(
        count=made.count,
        bytes=made.bytes,
        exact=not made.notes,
        notes=[*made.notes, *([describe_markers(made.left_out)] if made.left_out else [])],
        part_bytes=made.part_bytes,
        columns=await find_columns(api.aws.s3, [made.samples[number] for number in spread(len(made.samples))]),
        parts=parts,
    )
