"""The joined outputs of the stage before, split like a job's input: here, or by a task of a split stage."""

from asyncpg import Record

from services.common.inputs import LinesInput
from services.common.splitters import Chunk, split, split_on_grid
from services.scheduler.loop import Grid


async def plan(grid: Grid, stage: Record) -> Chunk | None:
    """The next parts. Raises SplitError, and what S3's client raises."""
    joined = stage["before_result"]["files"][0]["uri"]
    source = LinesInput.model_validate({**stage["resplit"], "uri": joined})
    if stage["kind"] == "split":
        return await split_on_grid(grid.aws.s3, [source], stage["plan_cursor"], stage["slots"])
    return await split(grid.aws.s3, source, stage["plan_cursor"], stage["slots"])
