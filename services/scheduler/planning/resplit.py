"""The joined outputs of the stage before, split like a job's input: here, or by a task of a split stage."""

from asyncpg import Record
from botocore.exceptions import ClientError

from services.contract.location import Location
from services.inputs.chunk import Chunk
from services.inputs.spec import LinesInput
from services.inputs.split import split, split_on_grid
from services.platform.reads import ObjectLost
from services.platform.s3_faults import LOST, fault_of
from services.scheduler.loop import Context

READY = """
    SELECT s.job_id, s.stage, s.tasks_from, s.plan_cursor, s.revision, s.kind, s.resplit, s.before_result, p.slots
    FROM stages_to_chain AS s CROSS JOIN LATERAL pool_slots(s.pool) AS p
    WHERE s.tasks_from = 'resplit' AND s.before_state = 'succeeded'
      AND (s.put_off_at IS NULL OR s.put_off_at <= now() - $1 * interval '1 second')
      AND NOT is_full(s.job_id, s.stage, $3)
    ORDER BY s.put_off_at NULLS FIRST, s.priority DESC, s.task_count, s.job_id, s.stage LIMIT $2"""


async def plan(context: Context, stage: Record) -> Chunk | None:
    """The next parts. Raises SplitError, ObjectLost, and what S3's client raises."""
    joined = stage["before_result"]["files"][0]["uri"]
    source = LinesInput.model_validate({**stage["resplit"], "uri": joined}, extra="ignore")
    try:
        if stage["kind"] == "split":
            return await split_on_grid(context.aws.s3, [source], stage["plan_cursor"], stage["slots"])
        return await split(context.aws.s3, source, stage["plan_cursor"], stage["slots"])
    except ClientError as error:
        if fault_of(error) in LOST:
            raise ObjectLost(Location.parse(joined), f"can't be read: {error}") from error
        raise
