"""A reduce: each task works on `fan_in` outputs; what these tasks make is reduced again, level by level, to one.

All levels are tasks of one stage, one after the other. A level is planned when the one before has succeeded.
"""

import zlib
from dataclasses import asdict, dataclass, replace
from uuid import UUID

import orjson
from asyncpg import Record

from services.contract.task_input import Outputs
from services.contract.task_output import ListedOutput, TaskOutput
from services.inputs.chunk import Chunk
from services.platform.database import new_id
from services.platform.multipart import MultipartWriter
from services.scheduler.loop import Context

ROWS_PER_PAGE = 5000
INDEX_MAX = 2**31 - 1

# The first level, one that is open, or the next one, once all tasks so far have succeeded.
READY = """
    SELECT s.job_id, s.stage, s.tasks_from, s.plan_cursor, s.revision, s.fan_in FROM stages_to_chain AS s
    WHERE s.tasks_from = 'reduce' AND s.before_state = 'succeeded'
      AND (s.plan_cursor IS NULL OR (s.plan_cursor ->> 'open')::boolean
        OR s.task_count = (SELECT c.succeeded FROM stage_sums(s.job_id, s.stage) AS c))
      AND (s.put_off_at IS NULL OR s.put_off_at <= now() - $1 * interval '1 second')
      AND NOT is_full(s.job_id, s.stage, $3)
    ORDER BY s.put_off_at NULLS FIRST, s.priority DESC, s.job_id, s.stage LIMIT $2"""

_OUTPUTS = """
    SELECT index, attempt, output FROM tasks
    WHERE job_id = $1 AND stage = $2 AND index >= $3 AND index <= $4 AND state = 'succeeded' ORDER BY index LIMIT $5"""


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
    key = (stage["job_id"], stage["stage"], number)
    listing, listed = await list_outputs(context, *key, cursor.stage, cursor.after + 1, cursor.last, stage["fan_in"])
    made = cursor.made + (listed > 0 or cursor.made == 0)  # a reduce of nothing is one task, too
    full = listed == stage["fan_in"]
    inputs = [listing.to_json()] if made > cursor.made else []
    next_ = replace(cursor, after=cursor.after if listing.last is None else listing.last, made=made, open=full)
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


async def list_outputs(
    context: Context, job_id: UUID, stage: int, index: int, of: int, first: int, last: int, outputs_max: int
) -> tuple[Outputs, int]:
    """Write the listing of a task: the outputs of the stage `of` with an index from `first` to `last`.

    Returns the task's input, and how many are listed: at most `outputs_max`.
    """
    # Two schedulers may be at it: under one key, each would abort the other's upload.
    target = context.settings.layout.outputs(job_id, stage, index, new_id())
    crc32, indices, left = 0, [], outputs_max
    async with MultipartWriter(context.aws.s3, target, "application/jsonl") as writer:
        while rows := await context.database.fetch(_OUTPUTS, job_id, of, first, last, min(left, ROWS_PER_PAGE)):
            for row in rows:
                line = _line(row)
                crc32 = zlib.crc32(line, crc32)
                await writer.write(line)
            indices += [rows[0]["index"], rows[-1]["index"]]
            first, left = rows[-1]["index"] + 1, left - len(rows)
    begin, end = (indices[0], indices[-1]) if indices else (None, None)
    return Outputs(target, crc32, of, begin, end), outputs_max - left


def _line(task: Record) -> bytes:
    output = TaskOutput.from_json(task["output"])
    location, crc32 = (output.object.location, output.object.crc32) if output.object else (None, None)
    return orjson.dumps(ListedOutput(task["index"], task["attempt"], location, output.value, crc32).to_json()) + b"\n"
