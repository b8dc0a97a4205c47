"""Submit, inspect and control jobs."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Body, Query, Response
from pydantic import Field
from sqlmodel import col, select
from structlog.contextvars import bound_contextvars

from services.api import tables
from services.api.connections import Api, Connections, Session
from services.api.idempotency import Submission
from services.api.inputs import check_declared_inputs, check_inputs, find_declared_inputs
from services.api.pagination import Pages
from services.api.problems import BODY
from services.api.queues import check_queue
from services.api.results_place import check_results_place
from services.api.security import Caller, OfOwners, Submitter, Viewer, scope_filter
from services.api.shapes.jobs import Deletion, Job, JobPage, JobSummary, sum_progress
from services.api.strict_json import StrictRoute
from services.contract.states import TERMINAL, JobState
from services.engine import jobs, ownership, retention, retries, submission
from services.engine.plans import plan_at_once
from services.engine.progress import Progress, count_progress, is_slowed, seconds_left, tasks_known
from services.engine.quotas import check_retry
from services.engine.reasons.explain import explain
from services.engine.reasons.facts import read_facts
from services.engine.reasons.reason import codes_of, warnings_of
from services.engine.records import check_records
from services.engine.retries import RetryOrder
from services.engine.scope import apply_scope
from services.engine.spec import JobSpec
from services.inputs.reach import YET_TO_UPLOAD
from services.platform.database import Connection, Database
from services.platform.problems import invalid, not_found, problems
from services.platform.routes import JobId
from services.platform.settings import ApiSettings

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=StrictRoute)


CLOCK_SKEW = timedelta(seconds=5)  # how far a client's clock may be ahead of the database's

EXAMPLES: Any = {
    "array": {
        "summary": "An array job: ten tasks that differ by their index",
        "description": "Needs the processor `noop`: send the example of `register_processor` first.",
        "value": {
            "name": "hello",
            "input": {"type": "range", "count": 10},
            "stages": [{"processor": "noop"}],
            "labels": {"team": "claims"},
        },
    },
    "pipeline": {
        "summary": "A CSV cut into parts, cleaned in parallel, aggregated, reduced to one file",
        "value": {
            "name": "flights",
            "input": {
                "type": "lines",
                "uri": "s3://piecework/uploads/flights.csv",
                "format": "csv",
                "part_bytes": 4194304,
            },
            "stages": [
                {"name": "clean", "processor": "clean-flights@1", "rejects_max": 1000},
                {"name": "aggregate", "processor": "aggregate-flights@1", "params": {"by": ["carrier", "month"]}},
            ],
            "merge": {"type": "reduce", "processor": "sum-flights@1", "filename": "delays.json"},
        },
    },
    "later": {
        "summary": "A job for later, on a pool of its own",
        "value": {
            "name": "month-end",
            "input": {"type": "items", "items": [{"region": "north"}, {"region": "south"}]},
            "stages": [{"processor": "transform@3", "pool": "large", "timeout_seconds": 7200}],
            "merge": {"type": "concat", "filename": "ledger.jsonl"},
            "run_at": "2099-12-31T23:00:00Z",
        },
    },
}

# One statement, so that job, stages and counters show the same moment.
_JOB = """
    SELECT j.*, (
        SELECT coalesce(jsonb_agg(to_jsonb(x) ORDER BY x.stage), '[]') FROM (
            SELECT s.stage, s.name, s.kind, s.processor || '@' || s.processor_version AS processor, s.pool, s.state,
                s.planned AND NOT EXISTS (
                    SELECT FROM job_dependencies AS d
                    WHERE d.job_id = s.job_id AND s.stage = 0 AND d.stage IS NOT NULL AND NOT d.followed
                ) AS planned,
                s.tasks_expected, s.max_attempts, s.retry_budget, s.started_at, s.finished_at, s.result,
                s.tasks_from, s.fan_in, s.options -> 'found_columns' AS found_columns,
                coalesce(s.options -> 'columns', '{}') AS declared_columns,
                coalesce((p.spec ->> 'filters')::boolean, false) AS filters,
                (s.plan_cursor ->> 'left_out')::int AS left_out, c.*, (
                    SELECT max(extract(epoch FROM now() - b.claimed_at)::float8 - (b.count - 1) * c.task_seconds)
                    FROM bundles AS b
                    WHERE b.job_id = s.job_id AND b.stage = s.stage AND b.worker_id IS NOT NULL
                ) AS oldest_seconds
            FROM stages AS s JOIN processors AS p ON p.name = s.processor AND p.version = s.processor_version
            CROSS JOIN LATERAL stage_sums(s.job_id, s.stage) AS c
            WHERE s.job_id = j.job_id
        ) AS x
    ) AS stages, (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'job_id', d.predecessor_id, 'condition', d.condition, 'by_index', d.stage IS NOT NULL,
            'ended', d.ended) ORDER BY d.predecessor_id), '[]')
        FROM job_dependencies AS d WHERE d.job_id = j.job_id
    ) AS predecessors
    FROM jobs AS j WHERE j.job_id = $1"""


async def load_job(
    connection: Connection | Database, job_id: UUID, *, ready_tasks_max: int = 10_000, named: bool = True
) -> Job:
    """The job, and why it waits; `named`: other jobs that it waits for may be named. Raises a 404."""
    row = await connection.fetchrow(_JOB, job_id)
    if row is None:
        raise not_found("job", job_id)
    records, of_records = check_records(row["stages"])
    facts = await read_facts(connection, [] if row["state"] in TERMINAL else [job_id], ready_tasks_max)
    reasons = [*explain(facts, named=named).get(job_id, []), *retention.explain_interim(row), *of_records]
    stages = [
        stage
        | {
            "progress": progress,
            "task_count": sum(dict(progress).values()) if known else None,
            "slowed": is_slowed(stage),
            "seconds_left": seconds_left(stage, progress, known=known) if row["state"] == "running" else None,
            "reasons": [reason for reason in reasons if reason.stage == stage["stage"]],
            "records": counted,
            "columns": (stage["found_columns"] or {}) | stage["declared_columns"],
        }
        for stage, progress, known, counted in zip(
            row["stages"], count_progress(row["stages"]), tasks_known(row["stages"]), records, strict=True
        )
    ]
    return Job.model_validate({**row, "stages": stages, "reasons": reasons, "warnings": warnings_of(reasons)})


async def show_job(connection: Connection | Database, api: Connections, caller: Caller, job_id: UUID) -> Job:
    """As much as the caller may see."""
    limit = api.settings.ready_tasks_max
    return await load_job(connection, job_id, ready_tasks_max=limit, named=not caller.is_scoped)


@router.post(
    "",
    operation_id="submit_job",
    status_code=201,
    response_model=Job,
    responses=problems(*BODY, 409, 502) | {200: {"model": Job, "description": "A dry run: no job was made"}},
    summary="Submit a job",
)
async def submit_job(
    creation: Submission,
    api: Api,
    spec: Annotated[JobSpec, Body(openapi_examples=EXAMPLES)],
    dry_run: Annotated[
        bool,
        Query(
            description="check all, make nothing, and answer with the job as it would be (its id names nothing); files "
            "that are yet to be uploaded may be named `s3://-/NAME`"
        ),
    ] = False,
) -> Response:
    """Record a job; it starts at once, or at `run_at`, or when the jobs that it names in `after` have ended.

    The processors, their params, the pools and the bucket for results are checked. If the job starts at once, its input
    and the objects that its processors declare are checked too; otherwise they are checked when it starts.

    It belongs to the key's principal. Where it names none, it gets the key's share, labels, pool and priority.
    """
    spec = apply_scope(creation.caller, spec)
    if dry_run:
        api = replace(api, settings=_with_uploads_to_come(api.settings))

    async def prepare() -> None:
        declared = await find_declared_inputs(api, spec, creation.caller.reader)
        await check_results_place(api, spec.results)
        if spec.output_queue is not None:
            await check_queue(api, spec.output_queue, "output_queue")
        if not spec.is_for_later:
            await check_inputs(api, spec)
            await check_declared_inputs(api, declared)

    async def create(connection: Connection) -> Job:
        if spec.run_at is not None:
            now = await connection.fetchval("SELECT now()")
            if spec.run_at < now - CLOCK_SKEW:
                fix = f"this time has passed (it is {now:%Y-%m-%dT%H:%M:%SZ}); give a later one, or none to start now"
                raise invalid("run_at", spec.run_at.isoformat(), fix)
        job_id = await submission.submit_job(
            connection,
            spec,
            settings=api.settings,
            created_by=creation.caller.principal,
            key_id=creation.caller.key_id,
        )
        await plan_at_once(connection, job_id, spec, api.settings)
        await creation.caller.record(connection, job_id, name=spec.name, share=spec.share, priority=spec.priority)
        return await show_job(connection, api, creation.caller, job_id)

    if dry_run:
        return await _rehearse(api, prepare, create)
    return await creation.once(create, prepare=prepare)


def _with_uploads_to_come(settings: ApiSettings) -> ApiSettings:
    return settings.model_copy(update={"read_from": f"{settings.read_from},{YET_TO_UPLOAD}"})


async def _rehearse(
    api: Connections, prepare: Callable[[], Awaitable[None]], create: Callable[[Connection], Awaitable[Job]]
) -> Response:
    """Submit the job, and take it back: nothing that a submission checks can be left out."""
    await prepare()
    with bound_contextvars(dry_run=True):
        async with api.database.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                job = await create(connection)
            finally:
                await transaction.rollback()
    return Response(job.model_dump_json(), 200, media_type="application/json")


def _labels(labels: list[str]) -> dict[str, str]:
    pairs = [label.partition(":") for label in labels]
    for label, (key, colon, _) in zip(labels, pairs, strict=True):
        if not key or not colon:
            raise invalid("label", label, "write label=key:value")
    return {key: value for key, _, value in pairs}


_STAGES = """
    SELECT s.job_id, s.state, s.planned, s.tasks_expected, s.tasks_from, s.fan_in, c.*
    FROM stages AS s CROSS JOIN LATERAL stage_sums(s.job_id, s.stage) AS c
    WHERE s.job_id = ANY($1::uuid[]) ORDER BY s.job_id, s.stage"""


async def _progress(database: Database, job_ids: list[UUID]) -> dict[UUID, list[Progress]]:
    """The progress of these jobs' stages."""
    stages: dict[UUID, list[Any]] = {job_id: [] for job_id in job_ids}
    for stage in await database.fetch(_STAGES, job_ids):
        stages[stage["job_id"]].append(stage)
    return {job_id: count_progress(rows) for job_id, rows in stages.items()}


@router.get("", operation_id="list_jobs", summary="List jobs")
async def list_jobs(
    caller: Viewer,
    api: Api,
    session: Session,
    pages: Pages,
    owners: OfOwners,
    state: Annotated[list[JobState], Query(description="any of these states", max_length=100)] = [],  # noqa: B006
    name: Annotated[str | None, Query(max_length=100)] = None,
    label: Annotated[
        list[Annotated[str, Field(max_length=400)]],
        Query(description="`key:value`; all of these labels", max_length=20),
    ] = [],  # noqa: B006
    schedule_id: UUID | None = None,
    id_prefix: Annotated[
        str | None,
        Query(description="the id begins so, with hyphens or without", pattern=r"^[0-9a-fA-F-]+$", max_length=36),
    ] = None,
) -> JobPage:
    """Jobs, newest first. A key with shares or labels sees only jobs that have them."""
    job = tables.Job
    scope = scope_filter(caller, col(job.share), col(job.labels))
    statement = select(job).where(*scope, *owners.filter(caller, job.created_by))
    if state:
        statement = statement.where(col(job.state).in_(state))
    if name is not None:
        statement = statement.where(job.name == name)
    if schedule_id is not None:
        statement = statement.where(job.schedule_id == schedule_id)
    if id_prefix is not None:
        statement = statement.where(col(job.job_id).between(*_ids_from(id_prefix)))
    for key, value in _labels(label).items():
        statement = statement.where(col(job.labels).contains({key: value}))
    rows, next_cursor = await pages.fetch(session, statement, job.job_id, newest_first=True)
    progress = await _progress(api.database, [row.job_id for row in rows])
    unfinished = [row.job_id for row in rows if row.state not in TERMINAL]
    reasons = explain(await read_facts(api.database, unfinished, api.settings.ready_tasks_max))
    items = [
        JobSummary.model_validate(
            row.model_dump()
            | {"progress": sum_progress(progress[row.job_id]), "reasons": codes_of(reasons.get(row.job_id, []))}
        )
        for row in rows
    ]
    return JobPage(items=items, next_cursor=next_cursor)


def _ids_from(prefix: str) -> tuple[UUID, UUID]:
    """The least and the greatest id that begin so: a range, which the primary key's index finds."""
    digits = prefix.replace("-", "")
    if len(digits) > 32:
        raise invalid("id_prefix", prefix, "an id has 32 hexadecimal digits")
    return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))


@router.get("/{job_id}", operation_id="get_job", responses=problems(404), summary="Inspect a job")
async def get_job(caller: Viewer, api: Api, job_id: JobId) -> Job:
    """A job with its stages and their exact progress."""
    await ownership.require_job(api.database, caller, job_id)
    return await show_job(api.database, api, caller, job_id)


async def _order(
    caller: Caller, api: Connections, job_id: UUID, order: Callable[[Connection, UUID], Awaitable[None]]
) -> Job:
    async with api.transaction() as connection:
        await caller.require_control_of_job(connection, job_id)
        await order(connection, job_id)
        await caller.record(connection, job_id)
        return await show_job(connection, api, caller, job_id)


@router.post("/{job_id}/cancel", operation_id="cancel_job", responses=problems(404, 409), summary="Cancel a job")
async def cancel_job(caller: Submitter, api: Api, job_id: JobId) -> Job:
    """End a job: its waiting tasks never start, its running ones are killed."""
    return await _order(caller, api, job_id, jobs.cancel_job)


@router.post("/{job_id}/pause", operation_id="pause_job", responses=problems(404, 409), summary="Pause a job")
async def pause_job(caller: Submitter, api: Api, job_id: JobId) -> Job:
    """Start no more tasks of a job; running tasks end as usual."""
    return await _order(caller, api, job_id, jobs.pause_job)


@router.post("/{job_id}/resume", operation_id="resume_job", responses=problems(404, 409), summary="Resume a job")
async def resume_job(caller: Submitter, api: Api, job_id: JobId) -> Job:
    """Continue a paused job."""
    return await _order(caller, api, job_id, jobs.resume_job)


RETRIES: Any = {
    "failed": {"summary": "What has not succeeded", "value": {}},
    "fixed": {"summary": "... with the newest versions of the processors", "value": {"latest": True}},
    "stage": {
        "summary": "A whole stage and all after it, with one version of its processor",
        "value": {"stage": "clean", "processors": ["clean-flights@4"]},
    },
}


@router.post("/{job_id}/retry", operation_id="retry_job", responses=problems(*BODY, 404, 409), summary="Retry a job")
async def retry_job(
    caller: Submitter,
    api: Api,
    job_id: JobId,
    order: Annotated[RetryOrder, Body(openapi_examples=RETRIES)] = RetryOrder(),
) -> Job:
    """Run a job that has ended again, as far as the body says; other results are kept.

    Without a body, what has not succeeded runs again: of a job that has failed or was cancelled the failed and
    cancelled tasks of the stages that did not succeed, of one that has succeeded the failed tasks that were tolerated.
    What comes after a task that runs again is made again, and so are the results.
    """
    async with api.transaction() as connection:
        await caller.require_control_of_job(connection, job_id)
        await check_retry(connection, api.settings, job_id)
        await retries.retry_job(connection, job_id, order, api.settings, caller.reader)
        await caller.record(connection, job_id, **order.model_dump(mode="json", exclude_defaults=True))
        return await show_job(connection, api, caller, job_id)


@router.post("/{job_id}/hold", operation_id="hold_job", responses=problems(404, 409), summary="Hold what a job leaves")
async def hold_job(caller: Submitter, api: Api, job_id: JobId) -> Job:
    """Let nothing of a job be deleted, by retention or by anybody, until it is released. Safe to repeat."""
    return await _order(caller, api, job_id, retention.hold_job)


@router.post("/{job_id}/release", operation_id="release_job", responses=problems(404, 409), summary="End a job's hold")
async def release_job(caller: Submitter, api: Api, job_id: JobId) -> Job:
    """Let what a job leaves be deleted when it is due, which may be at once. Safe to repeat."""
    return await _order(caller, api, job_id, retention.release_job)


@router.delete(
    "/{job_id}", operation_id="delete_job", status_code=202, responses=problems(404, 409), summary="Delete a job"
)
async def delete_job(
    caller: Submitter,
    api: Api,
    job_id: JobId,
    results: Annotated[Literal["delete", "keep"], Query(description="what becomes of its results")] = "delete",
) -> Deletion:
    """Delete a job that has ended, with its tasks, statistics, logs, interim data and results. Safe to repeat.

    The answer comes at once, and the job shows `deleted_at` until schedulers have deleted all, some thousand objects
    and rows at a time. Results in a place of your own stay. Those that are kept can be read as before, until the
    retention rules let them go, or the job is deleted once more without `results=keep`.
    """
    async with api.transaction() as connection:
        await caller.require_control_of_job(connection, job_id)
        deleted_at = await retention.delete_job(connection, job_id, keep_results=results == "keep")
        await caller.record(connection, job_id, results=results)
        return Deletion(job_id=job_id, deleted_at=deleted_at, results=results)
