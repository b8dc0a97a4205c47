"""Postgres lets only those workers claim a bundle whose nodes have what its tasks need."""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from services.contract.resources import Capacity, Needs
from services.engine import transitions
from tests.integration.engine.play import Play
from tests.invariants import assert_invariants

GiB = 1 << 30
LARGE = Capacity(cpus=16, memory=64 * GiB, gpus=1, disk=500 * GiB)


async def submit(play: Play, tasks: int = 1, **needs: Any) -> UUID:
    job_id = await play.submit(stages=[{"processor": "noop", **needs}])
    await play.plan(job_id, tasks)
    return job_id


@pytest.mark.parametrize(
    "small",
    [replace(LARGE, cpus=8), replace(LARGE, memory=GiB), replace(LARGE, gpus=0), replace(LARGE, disk=GiB), None],
)
async def test_a_node_without_what_a_task_needs_does_not_get_it(play: Play, small: Capacity | None) -> None:
    job_id = await submit(play, cpus=12, memory="48GiB", gpus=1, disk="100GiB")
    [message] = await play.dispatch(job_id)
    assert message.needs == Needs(12, 48 * GiB, 1, 100 * GiB)

    assert await play.claim(await play.register(capacity=small), [message]) == []
    await assert_invariants(play.database, job_id)

    [task] = await play.claim(await play.register(capacity=LARGE), [message])
    assert task.attempt == 1
    await assert_invariants(play.database, job_id)


async def test_of_two_fitting_nodes_one_gets_it(play: Play) -> None:
    job_id = await submit(play, cpus=12)
    messages = await play.dispatch(job_id)
    workers = [await play.register(capacity=LARGE) for _ in range(2)]
    claimed = await asyncio.gather(*(play.claim(worker_id, messages) for worker_id in workers))
    assert sorted(map(len, claimed)) == [0, 1]
    await assert_invariants(play.database, job_id)


async def test_a_worker_that_knows_of_no_needs_gets_what_asks_for_nothing(play: Play) -> None:
    job_id = await submit(play)
    [message] = await play.dispatch(job_id)
    assert message.needs is None
    assert len(await play.claim(await play.register(), [message])) == 1


async def test_a_bundle_that_an_earlier_scheduler_has_queued_asks_for_what_its_stage_does(play: Play) -> None:
    job_id = await submit(play, cpus=12)
    await play.dispatch(job_id)
    await play.database.execute("CREATE TABLE of_before AS TABLE bundles; DELETE FROM bundles")
    await play.database.execute(
        "INSERT INTO bundles (bundle_id, pool, job_id, stage, first, count, send_at) "
        "SELECT bundle_id, pool, job_id, stage, first, count, now() FROM of_before"
    )
    await play.database.execute("DROP TABLE of_before")

    [(_, message)] = await transitions.resend(play.database, 60, 10)
    assert message.needs == Needs(cpus=12)
    assert await play.claim(await play.register(), [message]) == []
    assert len(await play.claim(await play.register(capacity=LARGE), [message])) == 1


async def test_room_is_reserved_by_one_worker_at_a_time_and_by_a_lease(play: Play) -> None:
    job_id = await submit(play, cpus=12)
    [message] = await play.dispatch(job_id)
    first, second = [await play.register(capacity=LARGE) for _ in range(2)]

    async def reserve(worker_id: UUID, waited_seconds: float = 0.0) -> bool:
        lease = {"seconds": 60.0, "waited_seconds": waited_seconds}
        return await transitions.reserve(play.database, worker_id, message.bundle_id, **lease)

    assert not await reserve(first, waited_seconds=5.0)  # it has just come
    assert await reserve(first) and await reserve(first)
    assert not await reserve(second)
    await play.database.execute("UPDATE bundles SET reserved_until = now() - interval '1 second'")
    assert await reserve(second)
    assert len(await play.claim(first, [message])) == 1  # anybody with room may have it
    assert not await reserve(second)
    await assert_invariants(play.database, job_id)


async def test_a_backup_and_a_second_try_ask_for_the_same(play: Play) -> None:
    job_id = await submit(play, cpus=12)
    first = await play.register(capacity=LARGE)
    [task] = await play.run(first, job_id)
    [backup] = await play.back_up(job_id)
    assert backup.needs == Needs(cpus=12)
    assert await play.claim(await play.register(capacity=Capacity(2, GiB)), [backup]) == []

    await transitions.abandon(play.database, first, [task.bundle_id])
    [again] = await play.dispatch(job_id)
    assert again.needs == Needs(cpus=12)
