"""Of tasks that ask for a part of a node as many are queued as the pool's nodes can hold, beside all others."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

from services.contract.resources import Capacity, Needs
from services.scheduler.loop import Context
from services.scheduler.loops import dispatch
from tests.integration.engine.play import Play

GiB = 1 << 30
SMALL, LARGE = Capacity(2, 4 * GiB), Capacity(32, 128 * GiB, 4)


async def submit(play: Play, tasks: int, **needs: Any) -> UUID:
    job_id = await play.submit(stages=[{"processor": "noop", **needs}])
    await play.plan(job_id, tasks)
    return job_id


async def queued(play: Play) -> dict[UUID, int]:
    """Bundles that nobody has claimed, by job."""
    rows = await play.database.fetch(
        "SELECT job_id, count(*) AS n FROM bundles WHERE worker_id IS NULL GROUP BY job_id"
    )
    return {row["job_id"]: row["n"] for row in rows}


async def test_what_fits_on_no_node_is_not_queued_and_keeps_nothing_else_out(context: Context, play: Play) -> None:
    await play.register(capacity=SMALL)
    await play.database.execute("UPDATE pools SET largest_node = $1", asdict(LARGE))  # it may come
    large, small = await submit(play, 100, memory="64GiB"), await submit(play, 100)

    await dispatch.step(context)
    assert await queued(play) == {small: 4}

    await play.register(capacity=LARGE, slots=2)
    await dispatch.step(context)
    assert (await queued(play))[large] == 4  # two run at once, and as many wait


async def test_small_tasks_do_not_keep_large_ones_out_of_the_queue(context: Context, play: Play) -> None:
    await play.register(capacity=LARGE)
    small = await submit(play, 100)
    await dispatch.step(context)
    assert await queued(play) == {small: 4}  # the window is full

    large = await submit(play, 100, cpus=16, memory="1GiB")
    gpu = await submit(play, 100, gpus=1, cpus=1, memory="1GiB")
    await dispatch.step(context)
    assert await queued(play) == {small: 4, large: 4, gpu: 8}


async def test_a_node_that_leaves_or_says_nothing_holds_nothing(context: Context, play: Play) -> None:
    await play.register()  # of an earlier release
    worker_id = await play.register(capacity=LARGE)
    await play.database.execute("UPDATE workers SET state = 'draining' WHERE worker_id = $1", worker_id)
    await submit(play, 10, cpus=1)
    await dispatch.step(context)
    assert await queued(play) == {}


def test_as_many_run_at_once_as_fit_on_each_node() -> None:
    nodes = {(SMALL, 2): 3, (LARGE, 8): 2}
    assert dispatch.slots_for(Needs(cpus=2), nodes) == 3 + 2 * 8  # on a large node memory, a slot's share, runs out
    assert dispatch.slots_for(Needs(cpus=2, memory=GiB), nodes) == 3 + 2 * 16
    assert dispatch.slots_for(Needs(gpus=1), nodes) == 2 * 4
    assert dispatch.slots_for(Needs(gpus=5), nodes) == 0
