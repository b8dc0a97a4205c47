"""Tasks for several pools: those that one has not begun in time are for the next one too, and each runs once."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from services.contract.message import Message
from services.contract.resources import Capacity
from services.engine import transitions
from services.engine.pool_tasks import count_tasks
from services.scheduler.loop import Context
from services.scheduler.loops import dispatch, resend, scale, stragglers
from tests.groups import create_group
from tests.integration.engine.play import HOLD, Play, add_pool, add_processor, finished
from tests.integration.scheduler.conftest import Queue
from tests.invariants import assert_invariants

SECONDS = 120.0


@pytest.fixture
async def second(context: Context, play: Play, queue: Queue) -> str:
    """The URL of the queue of a pool `second`."""
    url: str = (await context.aws.sqs.create_queue(QueueName=f"second-{id(play)}"))["QueueUrl"]
    await add_pool(play.database, "second", url)
    return url


async def submit(play: Play, tasks: int, **stage: Any) -> UUID:
    pools = {"pools": ["default", "second"], "next_pool_after_seconds": SECONDS}
    job_id = await play.submit(stages=[{"processor": "noop", **pools, **stage}])
    await play.plan(job_id, tasks)
    return job_id


async def pass_time(play: Play, seconds: float) -> None:
    """All that waits has waited for so much longer."""
    ago = f"interval '{seconds} seconds'"
    await play.database.execute(f"UPDATE tasks SET ready_at = ready_at - {ago}")
    await play.database.execute(f"UPDATE bundles SET queued_at = queued_at - {ago}, send_at = send_at - {ago}")


async def queued(play: Play) -> dict[str, int]:
    rows = await play.database.fetch("SELECT pool, count(*) AS n FROM bundles WHERE worker_id IS NULL GROUP BY pool")
    return {row["pool"]: row["n"] for row in rows}


async def messages_of(context: Context, url: str) -> list[Message]:
    answer = await context.aws.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)
    return [Message.decode(message["Body"]) for message in answer.get("Messages", [])]


async def test_the_next_pool_gets_what_the_first_has_not_begun_in_time(
    context: Context, play: Play, queue: Queue, second: str
) -> None:
    job_id = await submit(play, 6)
    await dispatch.step(context)
    await dispatch.step(context)
    assert await queued(play) == {"default": 4}  # its window

    await pass_time(play, SECONDS - 60)
    await dispatch.step(context)
    assert await queued(play) == {"default": 4}

    await pass_time(play, 61)
    await dispatch.step(context)
    assert await queued(play) == {"default": 4, "second": 2}
    await resend.step(context)
    assert await queued(play) == {"second": 6}
    await context.slots["resend"].settle()

    offered = await queue.receive(), await messages_of(context, second)
    first_worker, second_worker = await play.register(), await play.register("second")
    claimed = await asyncio.gather(
        play.claim(first_worker, [Message.decode(body) for body in offered[0]]), play.claim(second_worker, offered[1])
    )
    assert sorted(task.index for tasks in claimed for task in tasks) == list(range(6))
    for worker_id, tasks in zip((first_worker, second_worker), claimed, strict=True):
        await play.complete(worker_id, *map(finished, tasks), done=tasks)
    attempts = await play.database.fetch("SELECT pool, worker_id FROM attempts")
    assert {(row["pool"], row["worker_id"]) for row in attempts} <= {
        ("default", first_worker),
        ("second", second_worker),
    }
    await assert_invariants(play.database, job_id)


async def test_a_pool_that_is_fast_enough_keeps_all(context: Context, play: Play, queue: Queue, second: str) -> None:
    await submit(play, 2)
    await dispatch.step(context)
    await play.claim(await play.register(), [Message.decode(body) for body in await queue.receive()])
    await pass_time(play, 10 * SECONDS)
    await dispatch.step(context)
    await resend.step(context)
    assert await queued(play) == {}


async def test_running_max_holds_for_all_pools_together(context: Context, play: Play, second: str) -> None:
    job_id = await submit(play, 20, running_max=5)
    await pass_time(play, SECONDS + 1)
    for _ in range(3):
        await dispatch.step(context)
    assert sum((await queued(play)).values()) == 5
    await assert_invariants(play.database, job_id)


async def test_a_stage_is_queued_in_one_pool_at_a_time(play: Play, second: str) -> None:
    job_id = await submit(play, 20)
    limits = {"tasks_max": 5, "bundle_tasks_max": 1, "resend_seconds": 60, "shared": True}
    async with play.database.acquire() as one, play.database.acquire() as other, one.transaction():
        assert len(await transitions.dispatch(one, job_id, 0, pool="default", **limits)) == 5
        async with other.transaction():
            assert await transitions.dispatch(other, job_id, 0, pool="second", **limits) == []


async def test_what_fits_in_no_node_of_the_first_pool_waits_for_the_second(
    context: Context, play: Play, second: str
) -> None:
    await play.register(capacity=Capacity(2, 1 << 32))
    await play.register("second", capacity=Capacity(8, 1 << 34))
    await submit(play, 3, cpus=8, memory="1GiB")
    await dispatch.step(context)
    assert await queued(play) == {}
    await pass_time(play, SECONDS + 1)
    await dispatch.step(context)
    assert await queued(play) == {"second": 2}


async def test_only_what_is_its_turn_asks_for_instances_of_the_next_pool(
    context: Context, play: Play, second: str
) -> None:
    group = await create_group(context.aws, maximum=10, desired=0)
    await add_pool(play.database, "second", second, group=group)
    await play.database.execute("UPDATE pools SET capacity_max = 5 WHERE name = 'second'")
    await submit(play, 100)

    async def desired() -> int:
        await play.database.execute("UPDATE pools SET scaled_at = now() - interval '30 seconds'")
        while await scale.step(context):
            pass
        row = await play.database.fetchrow("SELECT capacity_desired FROM pools WHERE name = 'second'")
        assert row is not None
        return int(row["capacity_desired"])

    assert await desired() == 0
    await pass_time(play, SECONDS + 1)
    assert await desired() == 5


async def test_what_waits_does_not_move_to_a_pool_that_is_paused_or_too_small(
    context: Context, play: Play, queue: Queue, second: str
) -> None:
    third: str = (await context.aws.sqs.create_queue(QueueName=f"third-{id(play)}"))["QueueUrl"]
    await add_pool(play.database, "third", third)
    large, small = Capacity(8, 1 << 34), Capacity(2, 1 << 32)
    for pool, has in (("default", large), ("second", small), ("third", large)):
        await play.register(pool, capacity=has)
    await play.database.execute("UPDATE pools SET paused = true WHERE name = 'third'")
    await submit(play, 1, pools=["default", "second", "third"], cpus=8, memory="1GiB")
    await dispatch.step(context)

    await pass_time(play, 3 * SECONDS)
    await resend.step(context)
    assert await queued(play) == {"default": 1}

    await play.database.execute("UPDATE pools SET paused = false WHERE name = 'third'")
    await pass_time(play, SECONDS)
    await resend.step(context)
    assert await queued(play) == {"third": 1}
    await context.slots["resend"].settle()


async def test_tasks_count_in_the_pool_where_they_wait_or_run(play: Play, second: str) -> None:
    job_id = await submit(play, 10)
    await play.submit()  # which has no tasks yet
    elsewhere = await play.submit(stages=[{"processor": "noop", "pool": "second"}])
    await play.plan(elsewhere, 7)
    first_worker, second_worker = await play.register(), await play.register("second")

    async def counted() -> dict[str, dict[str, int]]:
        tasks = await count_tasks(play.database)
        return {pool: {state: n for state, n in of_pool.items() if n} for pool, of_pool in tasks.items()}

    one, *_ = await play.dispatch(job_id, tasks=3, bundle=1)
    [four] = await play.dispatch(job_id, tasks=4, bundle=4, pool="second")
    assert await counted() == {"default": {"ready": 3, "queued": 3}, "second": {"ready": 7, "queued": 4}}

    await play.claim(first_worker, [one])
    running = await play.claim(second_worker, [four])
    assert await counted() == {
        "default": {"ready": 3, "queued": 2, "running": 1},
        "second": {"ready": 7, "running": 4},
    }

    await play.complete(second_worker, finished(running[0]))
    assert await counted() == {
        "default": {"ready": 3, "queued": 2, "running": 1, "succeeded": 1},
        "second": {"ready": 7, "running": 3},
    }
    await play.complete(second_worker, *map(finished, running[1:]), done=running)
    assert await counted() == {
        "default": {"ready": 3, "queued": 2, "running": 1, "succeeded": 4},
        "second": {"ready": 7},
    }


async def test_a_backup_goes_to_the_first_pool_that_has_a_free_slot(
    context: Context, play: Play, queue: Queue, second: str
) -> None:
    await add_processor(play.database, "twice", builtin="noop", idempotent=True)
    job_id = await submit(play, 4, processor="twice")
    first_worker, second_worker = await play.register(), await play.register("second")
    claimed = await play.run(first_worker, job_id, bundle=1, tasks=4)
    await play.succeed(first_worker, claimed[:3])
    await play.database.execute(HOLD, 60, first_worker)
    await play.database.execute("UPDATE workers SET busy = slots WHERE worker_id = $1", first_worker)
    group = await create_group(context.aws, maximum=10, desired=1)
    await play.database.execute("UPDATE pools SET group_name = $1, capacity_max = 5 WHERE name = 'default'", group)

    assert await stragglers.step(context)
    while await scale.step(context):
        pass
    wanted = "SELECT capacity_desired FROM pools WHERE name = 'default'"
    assert await play.database.fetchval(wanted) == 1, "what its backup runs beside is still there"

    assert await queue.receive() == []
    assert await queued(play) == {"second": 1}
    [backup] = await play.claim(second_worker, await messages_of(context, second))
    assert backup.index == claimed[3].index
    assert await play.complete(second_worker, finished(backup), done=[backup]) == 1
    await assert_invariants(play.database, job_id)
