"""A reduce: each task works on `fan_in` outputs; what these tasks make is reduced again, level by level, to one.

All levels are tasks of one stage, one after the other. A level is planned when the one before has succeeded.
"""

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from uuid import UUID

import orjson
from asyncpg import Record

from services.contract.location import Location
from services.contract.task_input import Outputs
from services.contract.task_output import ListedOutput, TaskOutput
from services.inputs.chunk import Chunk
from services.platform.database import Database, new_id
from services.platform.multipart import MultipartWriter
from services.scheduler.loop import Context

ROWS_PER_PAGE = 5000
INDEX_MAX = 2**31 - 1

# The first level, one that is open, or the next one, once all tasks so far have succeeded.
READY = """
    SELECT s.job_id, s.stage, s.tasks_from, s.plan_cursor, s.fan_in FROM stages_to_chain AS s
    WHERE s.tasks_from = 'reduce' AND s.before_state = 'succeeded'
      AND (s.plan_cursor IS NULL OR (s.plan_cursor ->> 'open')::boolean
        OR s.task_count = (SELECT c.succeeded FROM stage_sums(s.job_id, s.stage) AS c))
      AND (s.put_off_at IS NULL OR s.put_off_at <= now() - $1 * interval '1 second')
    ORDER BY s.put_off_at NULLS FIRST, s.priority DESC, s.job_id, s.stage LIMIT $2"""

_OUTPUTS = """
    SELECT index, attempt, output FROM tasks
    WHERE job_id = $1 AND stage = $2 AND index > $3 AND index <= $4 AND state = 'succeeded' ORDER BY index LIMIT $5"""


@dataclass(frozen=True, slots=True)
class _Cursor:
    """A level whose outputs are being grouped: those of `stage`, greater than `after`, up to `last`.

    `first` is the index of its first task, `made` how many it has; `open`: there may be more.
    """

    stage: int
    after: int
    last: int
    first: int
    made: int
    open: bool


async def plan(context: Context, stage: Record) -> Chunk | None:
    """The next task."""
    cursor = _open(stage)
    number = cursor.first + cursor.made
    layout = context.settings.layout
    # Two schedulers may be at it: under one key, each would abort the other's upload.
    target = layout.outputs(stage["job_id"], stage["stage"], number, new_id())
    outputs = _outputs(context.database, stage["job_id"], cursor, stage["fan_in"])
    listed, after = await _write_listing(context, target, outputs)
    made = cursor.made + (listed > 0 or cursor.made == 0)  # a reduce of nothing is one task, too
    full = listed == stage["fan_in"]
    inputs = [Outputs(target).to_json()] if made > cursor.made else []
    next_ = replace(cursor, after=max(after, cursor.after), made=made, open=full)
    return Chunk(inputs, asdict(next_), done=not full and made == 1)


def _open(stage: Record) -> _Cursor:
    """The level to go on with: the first, the one that is open, or the next."""
    if stage["plan_cursor"] is None:
        return _Cursor(stage=stage["stage"] - 1, after=-1, last=INDEX_MAX, first=0, made=0, open=True)
    cursor = _Cursor(**stage["plan_cursor"])
    if cursor.open:
        return cursor
    end = cursor.first + cursor.made
    return _Cursor(stage=stage["stage"], after=cursor.first - 1, last=end - 1, first=end, made=0, open=True)


async def _outputs(database: Database, job_id: UUID, cursor: _Cursor, outputs_max: int) -> AsyncIterator[Record]:
    after, left = cursor.after, outputs_max
    while left:
        size = min(left, ROWS_PER_PAGE)
        rows = await database.fetch(_OUTPUTS, job_id, cursor.stage, after, cursor.last, size)
        for row in rows:
            yield row
        if len(rows) < size:
            return
        after, left = rows[-1]["index"], left - size


async def _write_listing(context: Context, target: Location, outputs: AsyncIterator[Record]) -> tuple[int, int]:
    """List outputs for a task, a JSON line each; returns how many, and the last one's index (-1: none)."""
    listed, after = 0, -1
    async with MultipartWriter(context.aws.s3, target, "application/jsonl") as writer:
        async for task in outputs:
            output = TaskOutput.from_json(task["output"])
            location = output.object.location if output.object else None
            line = ListedOutput(task["index"], task["attempt"], location, output.value)
            await writer.write(orjson.dumps(line.to_json()) + b"\n")
            after = task["index"]
            listed += 1
    return listed, after
