"""A job of every kind of stage comes out right, whatever its user orders meanwhile and whichever tasks fail."""

import asyncio
import json
import random
from typing import Any
from uuid import UUID

import pytest

from services.contract.task_input import ByteRange
from services.engine import errors, jobs
from services.engine.attempt import AttemptReport, ClaimedTask
from services.scheduler.loop import Context
from services.scheduler.loops import chain, finish
from services.scheduler.merges.merge import Merger
from tests.integration.engine.play import Play, finished
from tests.integration.scheduler.conftest import Bucket, drive
from tests.invariants import assert_invariants

STAGES = [
    {"processor": "noop", "fan_out": True},
    {"processor": "noop"},
    {"processor": "noop", "barrier": True},
    {"processor": "noop", "resplit": {"type": "lines", "part_bytes": 12}},
    {"processor": "noop", "resplit": {"type": "lines", "format": "csv", "header": False, "multiline": True}},
]
STAGE_COUNT = len(STAGES) + 2  # with the split and the reduce
REDUCE = {"type": "reduce", "processor": "noop", "fan_in": 3}
TASKS, ITEMS = 4, 3


async def part_of(bucket: Bucket, input: Any) -> bytes:
    return (await bucket.get(input.location.uri))[input.start : input.end]


async def report(bucket: Bucket, task: ClaimedTask) -> AttemptReport:
    """What a worker would report: each item goes through as a line, and the reduce makes a list of them all."""
    input: Any = task.input
    key = f"{task.job_id}/{task.stage}/{task.index}-{task.attempt}"
    match task.stage:
        case 0:
            values = [f"{task.index}{number}" for number in range(ITEMS)]
            body = b"".join(json.dumps({"type": "item", "value": value}).encode() + b"\n" for value in values)
        case 1:
            body = f"{input.value}\n".encode()
        case 2:
            body = await bucket.get(input.location.uri)
        case 3:
            body = await part_of(bucket, input)
        case 4:
            end = len(await bucket.get(input.location.uri))
            parts = [ByteRange(input.location, start, min(start + 9, end)) for start in range(0, end, 9)]
            body = b"".join(json.dumps(part.to_json()).encode() + b"\n" for part in parts)
        case 5:
            return finished(task, output={"value": (await part_of(bucket, input)).decode().split()})
        case _:
            members = (await bucket.get(input.location.uri)).splitlines()
            return finished(task, output={"value": [line for m in members for line in json.loads(m)["value"]]})
    uri = await bucket.put(key, body)
    return finished(task, output={"uri": uri, "bytes": len(body)})


class _Run:
    """A job under way, with two schedulers and a worker that is not always lucky."""

    def __init__(self, context: Context, other: Context, play: Play, bucket: Bucket, seed: int) -> None:
        self._grids, self._play, self._bucket = (context, other), play, bucket
        self._draw = random.Random(seed)
        self._merger = Merger()

    async def state(self, job_id: UUID) -> str:
        return str((await self._play.job(job_id))["state"])

    async def schedule(self) -> None:
        await asyncio.gather(*(chain.step(context) for context in self._grids))
        await finish.step(self._draw.choice(self._grids))
        await self._merger.step(self._grids[0])

    async def work(self, worker_id: UUID, job_id: UUID) -> None:
        stage = self._draw.randrange(STAGE_COUNT)
        for task in await self._play.run(worker_id, job_id, stage, tasks=self._draw.randint(1, 4), bundle=1):
            unlucky = self._draw.random() < 0.03
            ended = finished(task, "failed", retryable=False) if unlucky else await report(self._bucket, task)
            await self._play.complete(worker_id, ended, done=[task])

    async def interfere(self, job_id: UUID) -> None:
        order, back, pause = self._draw.choice(
            [(jobs.cancel_job, jobs.retry_job, "cancelled"), (jobs.pause_job, jobs.resume_job, "paused")]
        )
        if await self.state(job_id) in ("failing", "failed"):
            back, pause = jobs.retry_job, "failed"
        else:
            try:
                await self._play.order(order, job_id)
            except errors.Conflict:
                return  # the merge has just ended it
        context = self._grids[0]

        async def rests() -> bool:
            return await self.state(job_id) == pause

        await drive(context, finish.step, until=rests)
        await assert_invariants(context.database, job_id)
        await self._play.order(back, job_id)


@pytest.mark.parametrize("seed", range(6))
async def test_a_job_of_every_kind_of_stage_survives_orders_and_failures(
    context: Context, other: Context, play: Play, bucket: Bucket, seed: int
) -> None:
    run = _Run(context, other, play, bucket, seed)
    job_id = await play.submit(stages=STAGES, merge=REDUCE)
    await play.plan(job_id, TASKS)
    worker_id = await play.register()
    draw = random.Random(f"orders {seed}")

    async def over() -> bool:
        await run.work(worker_id, job_id)
        await run.schedule()
        state = await run.state(job_id)
        if state in ("failing", "failed") or (state == "running" and draw.random() < 0.1):
            await run.interfere(job_id)
        return await run.state(job_id) == "succeeded"

    await drive(context, until=over, seconds=60)

    await assert_invariants(play.database, job_id)
    reduced = await play.database.fetchval(
        "SELECT output -> 'value' FROM tasks WHERE job_id = $1 AND stage = $2 ORDER BY index DESC LIMIT 1",
        job_id,
        STAGE_COUNT - 1,
    )
    assert reduced == [f"{task}{item}" for task in range(TASKS) for item in range(ITEMS)]
