"""Append items to jobs that are open, cancel some of them, close the jobs, and follow the values of their tasks."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import orjson
import structlog
from fastapi import APIRouter, Body, Query, Request, Response

from services.api import json_lines
from services.api.connections import Api, Connections
from services.api.links import download_link
from services.api.problems import BODY
from services.api.routes.jobs import show_job
from services.api.security import Submitter, Viewer
from services.api.shapes.items import AppendedItems, CancelledItems, ItemNumbers, ItemsChunk, Values
from services.api.shapes.jobs import Job
from services.api.strict_json import StrictRoute
from services.contract.location import Location
from services.contract.task_output import TaskOutput
from services.engine import open_jobs, ownership
from services.engine import values as read
from services.engine.errors import NotFound
from services.engine.values import Cursor
from services.platform.database import UNREADY
from services.platform.problems import invalid, problems
from services.platform.routes import JobId

router = APIRouter(prefix="/jobs/{job_id}", tags=["jobs"], route_class=StrictRoute)

EXAMPLES: Any = {
    "first": {"summary": "The first chunk", "value": {"chunk": 0, "items": [{"region": "north"}, {"region": "south"}]}}
}

SOME: Any = {"some": {"summary": "Two items", "value": {"items": [7, 9]}}}

LINES_MAX = 500  # values that are read at once for an answer of lines

log = structlog.get_logger()

_GONE: tuple[type[BaseException], ...] = (NotFound, *UNREADY)  # the job or the database: who asks again is told

PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.005, 0.5  # between looks for values that nobody announces: each half as long again
LOOK_SECONDS = 5.0  # the same if they are announced: all that a lost notification costs


@router.post(
    "/items", operation_id="append_items", responses=problems(*BODY, 404, 409), summary="Append items to an open job"
)
async def append_items(
    caller: Submitter, api: Api, job_id: JobId, chunk: Annotated[ItemsChunk, Body(openapi_examples=EXAMPLES)]
) -> AppendedItems:
    """Make a task of each item of a job whose input is of type `stream`. Safe to repeat: a chunk counts once.

    Chunks are numbered from 0 and come in order. While the job has enough tasks that wait, the answer is a 429: send
    the same chunk again. A chunk without items keeps the job open for longer.
    """
    if len(chunk.items) > api.settings.items_max:
        raise invalid("items", len(chunk.items), f"at most {api.settings.items_max} items fit into a chunk: send more")
    async with api.transaction() as connection:
        await caller.require_control_of_job(connection, job_id)
        appended = await open_jobs.append_items(
            connection, job_id, chunk.chunk, chunk.items, api.settings.ready_tasks_max
        )
        await caller.record(connection, job_id, chunk=chunk.chunk, items=len(chunk.items))
        return AppendedItems(job_id=job_id, chunks=appended.chunks, items=appended.items)


@router.post(
    "/items/cancel",
    operation_id="cancel_items",
    responses=problems(*BODY, 404, 409),
    summary="Cancel items of an open job",
)
async def cancel_items(
    caller: Submitter, api: Api, job_id: JobId, numbers: Annotated[ItemNumbers, Body(openapi_examples=SOME)]
) -> CancelledItems:
    """End these items of a job whose input is of type `stream`, and no others. Safe to repeat.

    A task that waits never starts; one that runs is killed within a heartbeat, and whatever it still reports does not
    count. One that had ended stays as it is. Their values read as `cancelled`, and count as no failures.
    """
    async with api.transaction() as connection:
        await caller.require_control_of_job(connection, job_id)
        cancelled = await open_jobs.cancel_items(connection, job_id, sorted(set(numbers.items)))
        await caller.record(connection, job_id, cancelled=len(cancelled))
        return CancelledItems(job_id=job_id, cancelled=cancelled)


@router.post("/close", operation_id="close_job", responses=problems(404, 409), summary="Close an open job")
async def close_job(caller: Submitter, api: Api, job_id: JobId) -> Job:
    """Say that no more items come: the job ends when its tasks have ended. Safe to repeat."""
    async with api.transaction() as connection:
        await caller.require_control_of_job(connection, job_id)
        await open_jobs.close_job(connection, job_id)
        await caller.record(connection, job_id)
        return await show_job(connection, api, caller, job_id)


@router.get(
    "/values",
    operation_id="follow_values",
    response_model=Values,
    responses={**problems(404), 200: {"content": {json_lines.MEDIA_TYPE: {}}}},
    summary="Follow the values of a job's tasks",
)
async def follow_values(
    request: Request,
    caller: Viewer,
    api: Api,
    job_id: JobId,
    stage: Annotated[int | None, Query(ge=0, le=32_767, description="the last one but a reduce if absent")] = None,
    after: Annotated[
        str | None,
        Query(max_length=40, pattern=r"^\d{1,20}(:\d{1,10})?$", description="`after` of the answer before"),
    ] = None,
    wait: Annotated[float, Query(ge=0, le=30, description="seconds to wait for the next value")] = 0.0,
) -> Response:
    """The values of tasks that have ended, or their errors, in the order in which they ended.

    Each end is told once, after whichever call: go on with the `after` of the answer before, also in another program.
    Of a job that was cancelled, tasks that never began are not told. `ended` says that nothing follows, as the job has
    ended.

    With `Accept: application/x-ndjson` they come as JSON lines, one a value, until the job has ended or `wait` is over.
    Between them are lines with `after` and `ended`: what came before such a line need not be read again. `after` of the
    last one is where to go on, also if the answer broke off. They come as they are read, and compressed if the reader
    accepts gzip.
    """
    await ownership.require_job(api.database, caller, job_id)
    cursor = None if after is None else Cursor.parse(after)
    question = _Question(request, api, job_id, stage, time.monotonic() + wait)
    if json_lines.wants_lines(request):
        return json_lines.answer_lines(request, _lines(question, cursor))
    found = await _next(question, cursor)
    values = [await _show(api, task) for task in found.tasks]
    answer = {"values": values, "after": str(found.after), "ended": found.ended}
    return Response(orjson.dumps(answer), media_type="application/json")


@dataclass(frozen=True, slots=True)
class _Question:
    """For values of a stage, to be waited for until then (monotonic)."""

    request: Request
    api: Connections
    job_id: UUID
    stage: int | None
    until: float


async def _lines(question: _Question, cursor: Cursor | None) -> AsyncIterator[bytes]:
    """Each portion is read when the one before has been taken. If the database goes away, the answer ends early."""
    going_on = True
    while going_on:
        try:
            found = await _next(question, cursor, LINES_MAX)
            values = [await _show(question.api, task) for task in found.tasks]
        except _GONE as error:
            log.warning("values broken off", job=str(question.job_id), error=repr(error))
            return
        cursor = found.after
        going_on = not found.ended and (found.more or time.monotonic() < question.until)
        for piece in json_lines.pieces_of([*values, {"after": str(cursor), "ended": found.ended}]):
            yield piece


async def _next(question: _Question, cursor: Cursor | None, rows_max: int | None = None) -> read.Values:
    """The next values, as soon as there are any, or none when it is time.

    Who is woken and finds nothing looks again soon: what has ended is told once no older transaction can still commit.
    """
    ends = question.api.ends
    with ends.of(question.job_id) as woken:
        pause = PAUSE_SECONDS
        while True:
            woken.clear()
            found = await read.read_values(question.api.database, question.job_id, question.stage, cursor, rows_max)
            cursor = found.after
            left = question.until - time.monotonic()
            if found.tasks or found.ended:
                return found
            if found.more:
                continue
            if left <= 0 or await question.request.is_disconnected():
                return found
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pause, left)):
                    await woken.wait()
            announced = found.notified and ends.is_heard
            most = LOOK_SECONDS if announced else PAUSE_SECONDS_MAX
            pause = PAUSE_SECONDS if woken.is_set() else min((4.0 if announced else 1.5) * pause, most)


async def _show(api: Connections, task: Any) -> dict[str, Any]:
    """As the shape `Value` says; thousands of them are written without it."""
    output = TaskOutput.from_json(task["output"])
    log = task["log"] if task["state"] == "failed" else None
    return {
        **{name: task[name] for name in ("index", "state", "attempt", "error")},
        "value": output.value,
        "url": None if output.object is None else await _link(api, output.object.location),
        "log_url": None if log is None else await _link(api, Location.parse(log)),
    }


async def _link(api: Connections, location: Location) -> str:
    return await download_link(api, location, location.key.rpartition("/")[2])
