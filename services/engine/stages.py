"""The stages of a job: when they start, and what a worker must know about one."""

from typing import Any
from uuid import UUID

from pydantic import ValidationError

from services.engine.attempt import StageWork
from services.engine.errors import explain
from services.engine.spec import ProcessorSpec
from services.inputs.chunk import TASKS_MAX
from services.platform.database import Connection, Database


async def start_stages(connection: Connection, job_id: UUID) -> None:
    """Run the stages whose tasks come one by one; those that need all of the previous stage stay `waiting`."""
    await connection.execute(
        "UPDATE stages SET state = 'running', started_at = coalesce(started_at, now()), finished_at = NULL "
        "WHERE job_id = $1 AND state IN ('waiting', 'failed', 'cancelled') "
        "AND (planned OR plan_cursor IS NOT NULL OR NOT barrier AND tasks_from IN ('input', 'successes', 'items'))",
        job_id,
    )
    await connection.execute(
        "UPDATE stages SET state = 'waiting', finished_at = NULL "
        "WHERE job_id = $1 AND state IN ('failed', 'cancelled')",
        job_id,
    )


async def hold_stages(connection: Connection, job_id: UUID) -> None:
    """Let those that run wait until the job starts: tasks that they have stay ready."""
    await connection.execute(
        "UPDATE stages SET state = 'waiting', started_at = NULL WHERE job_id = $1 AND state = 'running'", job_id
    )


async def stay_open(connection: Connection, job_id: UUID) -> None:
    """The time in which an open job did not run does not count."""
    await connection.execute(
        "UPDATE stages SET appended_at = now() WHERE job_id = $1 AND open_seconds IS NOT NULL", job_id
    )


class StageGone(LookupError):
    """The stage does not exist: its job was deleted."""


class StageUnreadable(Exception):
    """This release can't read the stored stage: a newer one may have written it. The message says why."""


# A job submitted by the release before has its options in columns only. A stage whose tasks work on one output each has
# the numbers of the stage that it so follows, others their own.
_LOAD_STAGE = """
    SELECT s.job_id, s.stage, s.revision, j.name AS job_name, j.traceparent, s.name AS stage_name, s.kind, s.processor,
        s.processor_version, p.spec, s.timeout_seconds,
        coalesce(s.options, jsonb_build_object('params', s.params, 'inputs', s.inputs,
            'fan_out', s.fan_out, 'memory_bytes', s.memory_bytes, 'rejects_max', s.rejects_max)) AS options,
        CASE WHEN followed.planned THEN followed.task_count END AS task_count,
        EXISTS (
            SELECT FROM stages AS o WHERE o.job_id = s.job_id AND o.stage = 0 AND o.open_seconds IS NOT NULL
        ) AS is_open
    FROM stages AS s JOIN jobs AS j USING (job_id)
    LEFT JOIN processors AS p ON p.name = s.processor AND p.version = s.processor_version
    CROSS JOIN LATERAL (
        SELECT f.planned, f.task_count FROM stages AS f
        WHERE f.job_id = s.job_id AND f.stage <= s.stage AND f.tasks_from NOT IN ('successes', 'outputs')
        ORDER BY f.stage DESC LIMIT 1
    ) AS followed
    WHERE s.job_id = $1 AND s.stage = $2"""


def _array_of(task_count: int | None) -> dict[str, Any] | None:
    """An array job of that many tasks; None if there are more than one may have, or it is not known how many."""
    return {"type": "range", "count": task_count} if task_count and task_count <= TASKS_MAX else None


async def load_stage(connection: Connection | Database, job_id: UUID, stage: int) -> StageWork:
    """Raises StageGone and StageUnreadable. Fields of the processor that this release does not know are ignored."""
    row = await connection.fetchrow(_LOAD_STAGE, job_id, stage)
    if row is None:
        raise StageGone(f"job {job_id} has no stage {stage}: the job was deleted")
    processor = f"{row['processor']}@{row['processor_version']}"
    if row["spec"] is None:
        raise StageUnreadable(f"the processor {processor} was deleted")
    try:
        spec = ProcessorSpec.model_validate(row["spec"], extra="ignore")
        array = row["options"].get("array") or _array_of(row["task_count"])
        return StageWork.model_validate({**row, **row["options"], "array": array, "spec": spec}, extra="ignore")
    except ValidationError as error:
        raise StageUnreadable(f"this release can't read the processor {processor}: {explain(error)}") from error
