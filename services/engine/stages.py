"""The stages of a job: when they start, and what a worker must know about one."""

from uuid import UUID

from pydantic import ValidationError

from services.engine.attempt import StageWork
from services.engine.errors import explain
from services.engine.spec import ProcessorSpec
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


class StageGone(LookupError):
    """The stage does not exist: its job was deleted."""


class StageUnreadable(Exception):
    """This release can't read the stored stage: a newer one may have written it. The message says why."""


# A job submitted by the release before has its options in columns only.
_LOAD_STAGE = """
    SELECT s.job_id, s.stage, j.name AS job_name, s.name AS stage_name, s.kind, s.processor, s.processor_version,
        p.spec, s.timeout_seconds, coalesce(s.options, jsonb_build_object('params', s.params, 'inputs', s.inputs,
            'fan_out', s.fan_out, 'memory_bytes', s.memory_bytes, 'rejects_max', s.rejects_max)) AS options
    FROM stages AS s JOIN jobs AS j USING (job_id)
    LEFT JOIN processors AS p ON p.name = s.processor AND p.version = s.processor_version
    WHERE s.job_id = $1 AND s.stage = $2"""


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
        return StageWork.model_validate({**row, **row["options"], "spec": spec}, extra="ignore")
    except ValidationError as error:
        raise StageUnreadable(f"this release can't read the processor {processor}: {explain(error)}") from error
