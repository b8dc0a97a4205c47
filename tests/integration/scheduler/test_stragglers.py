"""Stragglers: who gets a backup attempt, and when."""

from typing import Any
from uuid import UUID

import pytest

from services.contract.message import Message
from services.engine.attempt import ClaimedTask
from services.scheduler.loop import Context
from services.scheduler.loops import stragglers
from tests.integration.engine.play import HOLD, Play, add_processor, finished
from tests.integration.scheduler.conftest import Queue

PEERS = 3  # tasks of half a second that have ended


@pytest.fixture
async def processor(play: Play) -> str:
    await add_processor(play.database, "twice", builtin="noop", idempotent=True)
    return "twice"


async def straggle(
    play: Play, processor: str, *, held_seconds: float = 60, tasks: int = PEERS + 1, **stage: Any
) -> ClaimedTask:
    """Of a job's tasks PEERS have succeeded, and one has been running for this many seconds."""
    job_id = await play.submit(stages=[{"processor": processor, **stage}])
    await play.plan(job_id, tasks)
    worker_id = await play.register()
    claimed = await play.run(worker_id, job_id, bundle=1, tasks=PEERS + 1)
    await play.succeed(worker_id, claimed[:PEERS])
    await play.database.execute(HOLD, held_seconds, worker_id)
    return claimed[-1]


async def offered(queue: Queue) -> list[Message]:
    return [Message.decode(body) for body in await queue.receive()]


async def test_a_task_that_runs_far_past_its_peers_is_offered_to_others(
    context: Context, play: Play, queue: Queue, processor: str
) -> None:
    task = await straggle(play, processor)
    other = await play.register()

    assert await stragglers.step(context)

    messages = await offered(queue)
    assert [(m.job_id, m.first, m.count) for m in messages] == [(task.job_id, task.index, 1)]
    [backup] = await play.claim(other, messages)
    assert await play.complete(other, finished(backup), done=[backup]) == 1


async def test_a_stage_that_limits_its_running_tasks_gets_no_backup(
    context: Context, play: Play, queue: Queue, processor: str
) -> None:
    await straggle(play, processor, running_max=9)
    await play.register()

    assert not await stragglers.step(context)

    assert await offered(queue) == []


async def test_a_processor_not_marked_idempotent_gets_no_backup(context: Context, play: Play, queue: Queue) -> None:
    await straggle(play, "noop")

    assert not await stragglers.step(context)

    assert await offered(queue) == []


@pytest.mark.parametrize(
    "reason", [{"held_seconds": 4.0}, {"tasks": PEERS + 2}], ids=["it is not late yet", "tasks of its stage wait"]
)
async def test_no_backup_while(
    context: Context, play: Play, queue: Queue, processor: str, reason: dict[str, Any]
) -> None:
    await straggle(play, processor, **reason)
    await play.register()

    await stragglers.step(context)

    assert await offered(queue) == []


async def test_no_backup_while_most_of_its_peers_run_too(
    context: Context, play: Play, queue: Queue, processor: str
) -> None:
    job_id = await play.submit(stages=[{"processor": processor}])
    await play.plan(job_id, 4)
    worker_id = await play.register()
    claimed = await play.run(worker_id, job_id, bundle=1)
    await play.succeed(worker_id, claimed[:2])
    await play.database.execute(HOLD, 60, worker_id)

    await stragglers.step(context)

    assert await offered(queue) == []


async def test_no_backup_without_a_free_slot(context: Context, play: Play, queue: Queue, processor: str) -> None:
    await straggle(play, processor)
    await play.database.execute("UPDATE workers SET busy = slots")

    await stragglers.step(context)

    assert await offered(queue) == []


async def test_no_backup_while_others_wait_for_the_pool(
    context: Context, play: Play, queue: Queue, processor: str
) -> None:
    await straggle(play, processor)
    other: UUID = await play.submit()
    await play.plan(other, 1)
    await play.dispatch(other)

    await stragglers.step(context)

    assert await offered(queue) == []


async def test_once_is_enough(context: Context, play: Play, queue: Queue, processor: str) -> None:
    await straggle(play, processor)

    await stragglers.step(context)
    await stragglers.step(context)

    assert len(await offered(queue)) == 1
