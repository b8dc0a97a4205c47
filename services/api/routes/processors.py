"""Register and inspect what jobs can run."""

import asyncio
from typing import Annotated, Any

from asyncpg import Record
from fastapi import APIRouter, Body, Path, Query, Response
from sqlalchemy import tuple_
from sqlmodel import col, func, not_, select

from services.api import tables
from services.api.connections import Api, Session
from services.api.idempotency import Development
from services.api.links import read_link
from services.api.pagination import Pages
from services.api.problems import BODY
from services.api.routes.packages import check_package
from services.api.security import Developer, Viewer
from services.api.shapes.processors import Processor, ProcessorDetail, ProcessorPage, ProcessorRegistration
from services.api.shapes.trials import ProcessorTrial, TrialObject
from services.api.strict_json import StrictRoute
from services.engine import processors, removal
from services.engine.params_schema import check_schema
from services.engine.processor_checks import check_processor
from services.engine.spec import OWN_PROCESSORS, ProcessorSpec
from services.engine.trials import find_processor_trial
from services.platform.database import Connection
from services.platform.problems import ProblemError, not_found, problems

router = APIRouter(prefix="/processors", tags=["processors"], route_class=StrictRoute)

ProcessorName = Annotated[str, Path(max_length=100, examples=["noop"])]
VersionNumber = Annotated[int, Path(ge=1, le=2_147_483_647, examples=[1])]

EXAMPLES: Any = {
    "noop": {
        "summary": "A built-in that does nothing, to try the grid",
        "value": {"name": "noop", "builtin": "noop", "description": "does nothing"},
    },
    "command": {
        "summary": "An existing program",
        "value": {
            "name": "transcode",
            "command": ["ffmpeg", "-i", "{input}", "-b:v", "{params.bitrate}", "{output}"],
            "output": "video.mp4",
            "params_schema": {
                "type": "object",
                "properties": {"bitrate": {"type": "string", "pattern": "^[0-9]+[kM]$"}},
                "required": ["bitrate"],
                "additionalProperties": False,
            },
        },
    },
    "function": {
        "summary": "A Python function of an item, which returns a value",
        "value": {"name": "price", "function": "prices:price_of", "description": "the price of one order"},
    },
    "records": {
        "summary": "A Python function applied to each record",
        "value": {
            "name": "clean-flights",
            "records": "flights:clean",
            "output": "clean.csv",
            "output_format": "csv",
            "description": "drops cancelled flights",
        },
    },
    "sql": {
        "summary": "A DuckDB query of each part",
        "value": {
            "name": "delays",
            "sql": "SELECT carrier, dep_delay::INT AS delay FROM input WHERE dep_delay::INT >= {params.minutes}",
            "filters": True,
            "output": "delays.parquet",
            "output_format": "parquet",
        },
    },
}

_VERSION = """
    SELECT *, ARRAY(
        SELECT version FROM processors WHERE name = $1 AND deleted_at IS NULL ORDER BY version) AS versions
    FROM processors WHERE name = $1 AND ($2::integer IS NULL OR version = $2) AND deleted_at IS NULL
    ORDER BY version DESC LIMIT 1"""


@router.post(
    "",
    operation_id="register_processor",
    status_code=201,
    response_model=Processor,
    responses=problems(*BODY, 502),
    summary="Register a processor",
)
async def register_processor(
    creation: Development, api: Api, registration: Annotated[ProcessorRegistration, Body(openapi_examples=EXAMPLES)]
) -> Response:
    """Add a version. Jobs that are submitted keep the version they were submitted with.

    What would fail every task is refused: SQL that is not one SELECT, placeholders that stand for nothing.

    If the newest version already says the same, nothing is registered: the answer has that version's number. Another
    principal's processor gets no version of yours, unless the key has `all`.
    """
    if registration.params_schema is not None:
        await asyncio.to_thread(check_schema, registration.params_schema)
    spec = ProcessorSpec.model_validate(registration.model_dump(exclude={"name", "description"}))
    await asyncio.to_thread(check_processor, spec)

    async def create(connection: Connection) -> Processor:
        if spec.package is not None:
            await removal.hold_package(connection, spec.package)
        version = await processors.register_processor(
            connection, registration.name, spec, registration.description, by=creation.caller
        )
        await creation.caller.record(connection, f"{registration.name}@{version}", kind=spec.kind, package=spec.package)
        row = await connection.fetchrow(_VERSION, registration.name, version)
        return Processor.model_validate(dict(_found(row, registration.name, version)))

    return await creation.once(create, prepare=lambda: check_package(api, spec.package))


def _found(row: Record | None, name: str, version: int | None) -> Record:
    if row is None:
        raise _unknown(name, version)
    return row


def _unknown(name: str, version: int | None) -> ProblemError:
    return not_found("processor", name if version is None else f"{name}@{version}")


@router.get("", operation_id="list_processors", summary="List processors")
async def list_processors(key: Viewer, session: Session, pages: Pages) -> ProcessorPage:
    """The newest version of each processor, by name, without Piecework's own processors.

    The values of `environment` are shown to those who may register processors; to others, `***`.
    """
    processor = tables.Processor
    there = col(processor.deleted_at).is_(None)
    newest = select(processor.name, func.max(processor.version)).where(there).group_by(processor.name)
    registered: Any = not_(col(processor.name).startswith(OWN_PROCESSORS))
    statement = select(processor).where(registered, tuple_(col(processor.name), col(processor.version)).in_(newest))
    rows, next_cursor = await pages.fetch(session, statement, processor.name)
    return ProcessorPage(items=[Processor.model_validate(row).seen_by(key) for row in rows], next_cursor=next_cursor)


@router.get("/{name}", operation_id="get_processor", responses=problems(404), summary="Inspect a processor")
async def get_processor(
    key: Viewer,
    api: Api,
    name: ProcessorName,
    version: Annotated[int | None, Query(ge=1, le=2_147_483_647, description="the newest if absent")] = None,
) -> ProcessorDetail:
    """A version of a processor, and the numbers of its other versions.

    The values of `environment` are shown to those who may register processors; to others, `***`.
    """
    row = await api.database.fetchrow(_VERSION, name, version)
    return ProcessorDetail.model_validate(dict(_found(row, name, version))).seen_by(key)


@router.get(
    "/{name}/trial",
    operation_id="get_processor_trial",
    responses=problems(404, 409),
    summary="Get a processor for running it elsewhere",
)
async def get_processor_trial(
    caller: Developer,
    api: Api,
    name: ProcessorName,
    version: Annotated[int | None, Query(ge=1, le=2_147_483_647, description="the newest if absent")] = None,
) -> ProcessorTrial:
    """A version as a worker gets it, with presigned links to its package and its declared inputs.

    It is refused if jobs of the key may not read the declared inputs.
    """
    found = await find_processor_trial(api.database, api.settings, name, version, caller.reader)
    return ProcessorTrial(
        name=found.name,
        version=found.version,
        spec=found.spec,
        place=api.settings.layout.root.uri,
        objects=[
            TrialObject(uri=place.uri, version=None, url=await read_link(api, place, None)) for place in found.reads
        ],
    )


@router.delete(
    "/{name}/versions/{version}",
    operation_id="delete_processor_version",
    status_code=204,
    responses=problems(404, 409),
    summary="Delete a version of a processor",
)
async def delete_processor_version(caller: Developer, api: Api, name: ProcessorName, version: VersionNumber) -> None:
    """Delete a version: no job can be submitted with it any more, and its number is not given again.

    It is refused while a job that has not ended, or can be retried, a schedule or a trigger needs it. Jobs that have
    run it still name it.
    """
    async with api.transaction() as connection:
        await removal.delete_version(connection, name, version, by=caller)
        await caller.record(connection, f"{name}@{version}")
