"""The items of a fan-out stage: read from its tasks' listings, in the order of its tasks, as these end."""

import asyncio
import zlib
from collections.abc import Iterator
from typing import Any

import orjson
from asyncpg import Record

from services.contract.source import TaskSource, with_source
from services.contract.task_output import StoredObject, TaskOutput
from services.engine.lost_outputs import name_maker
from services.engine.places import check_task_inputs, refuse_unmade_items
from services.inputs.chunk import Chunk, SplitError
from services.platform.reads import ObjectLost, read_range, read_written
from services.scheduler.loop import Context

TASKS_PER_CHUNK = 64  # of the stage before
ITEMS_PER_CHUNK = 5_000
CHUNK_BYTES = 4_194_304  # of listings: several that are no more together, or a piece of a longer one

# The next task to read (the cursor's) has succeeded, or will never come; after a barrier, the stage before has ended.
READY = """
    SELECT s.job_id, s.stage, s.tasks_from, s.plan_cursor, s.revision, s.before_state, s.before_planned
    FROM stages_to_chain AS s
    WHERE s.tasks_from = 'items'
      AND (s.before_state = 'succeeded' OR NOT s.barrier AND coalesce((
        SELECT t.state = 'succeeded'
            AND (s.before_planned OR t.index = coalesce((s.plan_cursor ->> 'index')::integer, 0))
        FROM tasks AS t WHERE t.job_id = s.job_id AND t.stage = s.stage - 1
          AND t.index >= coalesce((s.plan_cursor ->> 'index')::integer, 0)
        ORDER BY t.index LIMIT 1
      ), s.before_planned))
      AND (s.put_off_at IS NULL OR s.put_off_at <= now() - $1 * interval '1 second')
      AND NOT is_full(s.job_id, s.stage, $3)
    ORDER BY s.put_off_at NULLS FIRST, s.priority DESC, s.task_count, s.job_id, s.stage LIMIT $2"""

_ENDED = """
    SELECT index, state, attempt, input, output FROM tasks WHERE job_id = $1 AND stage = $2 - 1 AND index >= $3
    ORDER BY index LIMIT $4"""


async def plan(context: Context, stage: Record) -> Chunk | None:
    """The next items; None if the next task of the stage before has not ended yet."""
    cursor = stage["plan_cursor"] or {"index": 0, "byte": 0}
    rows = await context.database.fetch(_ENDED, stage["job_id"], stage["stage"], cursor["index"], TASKS_PER_CHUNK)
    walked = _walk(rows, cursor["index"], stage)
    last = bool(stage["before_planned"]) and len(walked) == len(rows) < TASKS_PER_CHUNK
    if not walked:
        return Chunk([], cursor, done=True) if last else None
    _check_attempt(cursor, walked[0], stage)
    listings: list[_Listing] = []
    total = 0
    for row in walked:
        start = cursor["byte"] if row["index"] == cursor["index"] else 0
        listing = _Listing(row, start)
        if total and total + listing.end - start > CHUNK_BYTES:
            last = False
            break
        listings.append(listing)
        total += listing.end - start
    parts = await asyncio.gather(*(listing.read(context.aws.s3) for listing in listings))
    taken = list(_cut(listings, parts))
    made = [(orjson.loads(line), listing.source) for listing, lines, _ in taken for line in lines]
    inputs = [with_source(item, source) for item, source in made]
    refuse_unmade_items(inputs)
    await check_task_inputs(context.database, stage["job_id"], inputs, context.settings)
    at, _, read = taken[-1]
    last = last and len(taken) == len(listings)
    if read < at.end:
        return Chunk(inputs, {"index": at.index, "byte": read, "attempt": at.attempt}, done=False)
    return Chunk(inputs, {"index": at.index + 1, "byte": 0}, done=last)


def _cut(
    listings: list["_Listing"], parts: list[tuple[list[bytes], int]]
) -> Iterator[tuple["_Listing", list[bytes], int]]:
    """The listings that have room in a chunk, with their lines and where these end; the last may lack some."""
    room = ITEMS_PER_CHUNK
    for listing, (lines, end) in zip(listings, parts, strict=True):
        kept = lines[:room]
        yield listing, kept, end if kept == lines else listing.start + sum(len(line) + 1 for line in kept)
        room -= len(kept)
        if not room:
            return


def _check_attempt(cursor: dict[str, Any], task: Record, stage: Record) -> None:
    """Raises SplitError if the task whose items are being planned has run again since."""
    if cursor["byte"] and cursor.get("attempt", task["attempt"]) != task["attempt"]:
        name = name_maker(stage["stage"] - 1, task["index"])
        raise SplitError(f"{name} ran again, its output being lost, while its items became tasks: submit the job again")


def _walk(rows: list[Record], first: int, stage: Record) -> list[Record]:
    """The tasks that have ended, up to the first that has not, or that may still come between two that are there."""
    walked: list[Record] = []
    for row in rows:
        expected = walked[-1]["index"] + 1 if walked else first
        gap = row["index"] != expected and not stage["before_planned"]
        # A task that failed or was cancelled may be tried again by its user, as long as its stage has not succeeded.
        without = row["state"] in ("failed", "cancelled") and stage["before_state"] == "succeeded"
        over = row["state"] == "succeeded" or without
        if gap or not over:
            break
        walked.append(row)
    return walked


class _Listing:
    """A task's listing of its items, from the byte `start` to the byte `end`; empty if the task has not succeeded."""

    def __init__(self, task: Record, start: int) -> None:
        self.index: int = task["index"]
        self.attempt: int = task["attempt"]
        self.start = start
        self.source = None if task["input"]["type"] == "split" else TaskSource.of(task["input"])
        self._object = TaskOutput.from_json(task["output"]).object if task["state"] == "succeeded" else None
        self.end = self._object.bytes if self._object else 0

    async def read(self, s3: Any) -> tuple[list[bytes], int]:
        """Whole lines from the start on, and where they end. Raises ObjectLost."""
        if self._object is None or self.start == self.end:
            return [], self.end
        begun = await read_checked(s3, self._object, CHUNK_BYTES) if self.start == 0 else b""
        window = CHUNK_BYTES
        while True:
            until = min(self.start + window, self.end)
            data = begun or await read_range(s3, self._object.location, self.start, until)
            size = len(data) if until == self.end else data.rfind(b"\n") + 1
            if size:
                return data[:size].splitlines(), self.start + size
            begun, window = b"", window * 2  # one item longer than the window


async def read_checked(s3: Any, listing: StoredObject, bytes_max: int) -> bytes:
    """The first bytes of a listing, once all of it is found to be as it was written. Raises ObjectLost."""
    place, end = listing.location, listing.bytes
    if end <= CHUNK_BYTES:
        return await read_written(s3, place, 0, end, crc32=listing.crc32)
    crc32, first = 0, bytearray()
    for start in range(0, end, CHUNK_BYTES):
        data = await read_written(s3, place, start, min(start + CHUNK_BYTES, end))
        crc32 = zlib.crc32(data, crc32)
        first += data[: bytes_max - len(first)]
    if listing.crc32 not in (None, crc32):
        raise ObjectLost(place, "does not hold the bytes that were written to it")
    return bytes(first)
