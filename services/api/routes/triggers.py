"""Queues whose messages submit jobs: of another system, of another job, of S3 when an object is created."""

from typing import Annotated, Any
from uuid import UUID

import asyncpg
from asyncpg import Record
from fastapi import APIRouter, Body, Path, Response
from pydantic import ValidationError
from sqlmodel import col, func, select

from services.api import tables
from services.api.connections import Api, Connections, Session
from services.api.idempotency import Registration
from services.api.pagination import Pages
from services.api.problems import BODY
from services.api.queues import check_queue
from services.api.security import Caller, OfOwners, Operator, Viewer, scope_filter
from services.api.shapes.triggers import Trigger, TriggerPage, TriggerSpec
from services.api.strict_json import StrictRoute
from services.engine.errors import PlaceRefused, SpecError
from services.engine.ownership import of_template, require_read
from services.engine.places import Reader
from services.engine.quotas import check_trigger
from services.engine.spec import JobSpec
from services.engine.submission import resolve_stages
from services.engine.templates import AnyField, MissingValue, fill_template, find_value
from services.platform.database import Connection, new_id
from services.platform.problems import conflict, field_path, invalid, not_found, problems

router = APIRouter(prefix="/triggers", tags=["triggers"], route_class=StrictRoute)

TriggerId = Annotated[UUID, Path(examples=["01970000-0000-7000-8000-000000000000"])]

EXAMPLES: Any = {
    "new files": {
        "summary": "A job for each new CSV under a prefix",
        "description": "The bucket sends its `s3:ObjectCreated:*` events to the queue. Needs the processor `noop`.",
        "value": {
            "name": "incoming-claims",
            "queue_url": "https://sqs.eu-west-1.amazonaws.com/123456789012/incoming-claims",
            "prefix": "s3://claims/incoming/",
            "suffix": ".csv",
            "job": {
                "name": "claims",
                "input": {"type": "lines", "uri": "{uri}", "format": "csv"},
                "stages": [{"processor": "noop"}],
                "labels": {"file": "{filename}"},
            },
        },
    },
}

# The placeholders of a created object; the fields of other messages are unknown.
_SAMPLE = {
    "uri": "s3://bucket/folder/file.csv",
    "bucket": "bucket",
    "key": "folder/file.csv",
    "filename": "file.csv",
    "stem": "file",
    "bytes": 1,
}

_INSERT = """
    INSERT INTO triggers (trigger_id, name, queue_url, prefix, suffix, match, job, created_by, key_id)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING *"""


def _is_told(field: str, filled: dict[str, Any]) -> bool:
    """Whether the value of the template's field comes from a message."""
    try:
        return isinstance(find_value(field, filled), AnyField)
    except MissingValue:
        return False


def _is_filled(field: str, template: dict[str, Any]) -> bool:
    """Whether the template's field has a placeholder: its values are checked when they come."""
    try:
        return "{" in str(find_value(field, template))
    except MissingValue:
        return False


async def _check_job(connection: Connection, api: Api, template: dict[str, Any], reader: Reader) -> None:
    """Raises a 422 for a template that no message can make valid."""
    try:
        filled = fill_template(template, _SAMPLE | {"message": AnyField()})
        await resolve_stages(connection, JobSpec.model_validate(filled), api.settings, reader)
    except MissingValue as error:
        fix = f"{error}; a template knows {', '.join(f'{{{name}}}' for name in _SAMPLE)} and {{message.…}}"
        raise invalid("job", "", fix) from error
    except SpecError as error:
        if _is_told(error.field, filled) or (isinstance(error, PlaceRefused) and _is_filled(error.field, template)):
            return
        raise invalid(f"job.{error.field}", error.value, error.fix) from error
    except ValidationError as error:
        for fault in error.errors():
            if not isinstance(fault["input"], AnyField):
                field = field_path(("body", "job", *fault["loc"]), {"job": filled})
                raise invalid(field, fault["input"], fault["msg"].removeprefix("Value error, ")) from error


@router.post(
    "",
    operation_id="create_trigger",
    status_code=201,
    response_model=Trigger,
    responses=problems(*BODY, 409, 502),
    summary="Create a trigger",
)
async def create_trigger(
    creation: Registration, api: Api, spec: Annotated[TriggerSpec, Body(openapi_examples=EXAMPLES)]
) -> Response:
    """Submit a job for every message of a queue, or for every created object that the messages name.

    The messages are S3 event notifications (straight, by SNS or by EventBridge), the `output_queue` of another job, or
    any JSON objects. An event makes one job, however often it is delivered. A message that can't become a job comes
    back until the queue's redrive policy removes it; `last_error` says why. The jobs belong to the key's principal.
    """

    async def prepare() -> None:
        await check_queue(api, spec.queue_url, "queue_url")
        told = spec.job.get("output_queue")
        if isinstance(told, str) and "{" not in told:
            await check_queue(api, told, "job.output_queue")

    async def create(connection: Connection) -> Trigger:
        await _check_job(connection, api, spec.job, creation.caller.reader)
        await check_trigger(connection, api.settings, creation.caller.key_id)
        owner = (creation.caller.principal, creation.caller.key_id)
        values = (spec.name, spec.queue_url, spec.prefix, spec.suffix, spec.match, spec.job, *owner)
        try:
            row = await connection.fetchrow(_INSERT, new_id(), *values)
        except asyncpg.UniqueViolationError as error:
            raise conflict(f"there is a trigger named {spec.name!r}; delete it or choose another name") from error
        assert row is not None
        await creation.caller.record(connection, row["trigger_id"], name=spec.name, queue_url=spec.queue_url)
        return Trigger.model_validate(dict(row))

    return await creation.once(create, prepare=prepare)


@router.get("", operation_id="list_triggers", summary="List triggers")
async def list_triggers(caller: Viewer, session: Session, pages: Pages, owners: OfOwners) -> TriggerPage:
    """Triggers, newest first. A key with shares or labels sees only those whose jobs have them."""
    trigger = tables.Trigger
    job = col(trigger.job)
    scope = scope_filter(caller, func.coalesce(job["share"].astext, "default"), job["labels"])
    statement = select(trigger).where(*scope, *owners.filter(caller, trigger.created_by))
    rows, next_cursor = await pages.fetch(session, statement, trigger.trigger_id, newest_first=True)
    return TriggerPage(items=[Trigger.model_validate(row.model_dump()) for row in rows], next_cursor=next_cursor)


def _show(row: Record | None, trigger_id: UUID) -> Trigger:
    if row is None:
        raise not_found("trigger", trigger_id)
    return Trigger.model_validate(dict(row))


@router.get("/{trigger_id}", operation_id="get_trigger", responses=problems(404), summary="Inspect a trigger")
async def get_trigger(caller: Viewer, api: Api, trigger_id: TriggerId) -> Trigger:
    """A trigger with its template, its last job, and its last error."""
    row = await api.database.fetchrow("SELECT * FROM triggers WHERE trigger_id = $1", trigger_id)
    shown = _show(row, trigger_id)
    require_read(caller, of_template("trigger", trigger_id, shown.created_by, shown.job))
    return shown


@router.delete(
    "/{trigger_id}",
    operation_id="delete_trigger",
    status_code=204,
    responses=problems(404),
    summary="Delete a trigger",
)
async def delete_trigger(caller: Operator, api: Api, trigger_id: TriggerId) -> None:
    """Delete a trigger; jobs that it has submitted stay."""
    async with api.transaction() as connection:
        row = await connection.fetchrow("DELETE FROM triggers WHERE trigger_id = $1 RETURNING *", trigger_id)
        await caller.record(connection, trigger_id, name=_show(row, trigger_id).name)


_PAUSE = "UPDATE triggers SET paused = $2 WHERE trigger_id = $1 RETURNING *"


async def _pause(caller: Caller, api: Connections, trigger_id: UUID, paused: bool) -> Trigger:
    async with api.transaction() as connection:
        shown = _show(await connection.fetchrow(_PAUSE, trigger_id, paused), trigger_id)
        await caller.record(connection, trigger_id, name=shown.name)
        return shown


@router.post("/{trigger_id}/pause", operation_id="pause_trigger", responses=problems(404), summary="Pause a trigger")
async def pause_trigger(caller: Operator, api: Api, trigger_id: TriggerId) -> Trigger:
    """Leave messages in their queue until the trigger is resumed."""
    return await _pause(caller, api, trigger_id, True)


@router.post("/{trigger_id}/resume", operation_id="resume_trigger", responses=problems(404), summary="Resume a trigger")
async def resume_trigger(caller: Operator, api: Api, trigger_id: TriggerId) -> Trigger:
    """Receive messages again, starting with those that arrived during the pause."""
    return await _pause(caller, api, trigger_id, False)
