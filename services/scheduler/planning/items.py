"""The items of a fan-out stage: read from its tasks' listings, in the order of its tasks, as these end."""

import asyncio

import orjson
from asyncpg import Record

from services.contract.task_output import StoredObject, TaskOutput
from services.inputs.chunk import Chunk
from services.platform.reads import read_range
from services.scheduler.loop import Context

TASKS_PER_CHUNK = 64  # of the stage before
CHUNK_BYTES = 4_194_304  # of listings: several that are no more together, or a piece of a longer one

# The next task to read (the cursor's) has succeeded, or will never come; after a barrier, the stage before has ended.
READY = """
    SELECT s.job_id, s.stage, s.tasks_from, s.plan_cursor, s.before_state, s.before_planned FROM stages_to_chain AS s
    WHERE s.tasks_from = 'items'
      AND (s.before_state = 'succeeded' OR NOT s.barrier AND coalesce((
        SELECT t.state = 'succeeded'
            AND (s.before_planned OR t.index = coalesce((s.plan_cursor ->> 'index')::integer, 0))
        FROM tasks AS t WHERE t.job_id = s.job_id AND t.stage = s.stage - 1
          AND t.index >= coalesce((s.plan_cursor ->> 'index')::integer, 0)
        ORDER BY t.index LIMIT 1
      ), s.before_planned))
      AND (s.put_off_at IS NULL OR s.put_off_at <= now() - $1 * interval '1 second')
    ORDER BY s.put_off_at NULLS FIRST, s.priority DESC, s.job_id, s.stage LIMIT $2"""

_ENDED = """
    SELECT index, state, output FROM tasks WHERE job_id = $1 AND stage = $2 - 1 AND index >= $3
    ORDER BY index LIMIT $4"""


async def plan(context: Context, stage: Record) -> Chunk | None:
    """The next items; None if the next task of the stage before has not ended yet."""
    cursor = stage["plan_cursor"] or {"index": 0, "byte": 0}
    rows = await context.database.fetch(_ENDED, stage["job_id"], stage["stage"], cursor["index"], TASKS_PER_CHUNK)
    walked = _walk(rows, cursor["index"], stage)
    last = bool(stage["before_planned"]) and len(walked) == len(rows) < TASKS_PER_CHUNK
    if not walked:
        return Chunk([], cursor, done=True) if last else None
    listings, total = [], 0
    for row in walked:
        start = cursor["byte"] if row["index"] == cursor["index"] else 0
        listing = TaskOutput.from_json(row["output"]).object if row["state"] == "succeeded" else None
        end = listing.bytes if listing else 0
        if total and total + end - start > CHUNK_BYTES:
            last = False
            break
        listings.append((row["index"], listing, start, end))
        total += end - start
    parts = await asyncio.gather(*(_read(context, listing, start, end) for _, listing, start, end in listings))
    inputs = [orjson.loads(line) for lines, _ in parts for line in lines]
    (index, _, _, end), (_, read) = listings[-1], parts[-1]
    if read < end:  # only ever of a listing that is read alone: several fit into a window
        return Chunk(inputs, {"index": index, "byte": read}, done=False)
    return Chunk(inputs, {"index": index + 1, "byte": 0}, done=last)


def _walk(rows: list[Record], first: int, stage: Record) -> list[Record]:
    """The tasks that have ended, up to the first that has not, or that may still come between two that are there."""
    walked: list[Record] = []
    for row in rows:
        expected = walked[-1]["index"] + 1 if walked else first
        gap = row["index"] != expected and not stage["before_planned"]
        # A failed task may be tried again by its user, as long as its stage has not succeeded.
        over = row["state"] == "succeeded" or (row["state"] == "failed" and stage["before_state"] == "succeeded")
        if gap or not over:
            break
        walked.append(row)
    return walked


async def _read(context: Context, listing: StoredObject | None, start: int, end: int) -> tuple[list[bytes], int]:
    """Whole lines of a task's listing from `start` on, and where they end."""
    if listing is None or start == end:
        return [], end
    window = CHUNK_BYTES
    while True:
        until = min(start + window, end)
        data = await read_range(context.aws.s3, listing.location, start, until)
        size = len(data) if until == end else data.rfind(b"\n") + 1
        if size:
            return data[:size].splitlines(), start + size
        window *= 2  # one item longer than the window
