"""A pool's Auto Scaling group follows the backlog, within bounds, and no node with work is cut off."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from botocore.exceptions import ClientError

from services.scheduler.loop import Context
from services.scheduler.loops import scale
from tests.groups import create_group
from tests.integration.engine.play import Play, add_pool

pytestmark = pytest.mark.both_emulators("DescribeAutoScalingGroups")

AddGroup = Callable[..., Awaitable[str]]


@pytest.fixture
def add_group(context: Context, play: Play) -> AddGroup:
    """Makes a group of a pool, `default` or a new one: by default 0 to 4 nodes of two slots, none there yet."""

    async def add(
        pool: str = "default", minimum: int = 0, maximum: int = 4, desired: int = 0, name: str | None = None
    ) -> str:
        group = name or await create_group(context.aws, maximum=10, desired=desired)
        await add_pool(play.database, pool, group=group)
        await play.database.execute(
            "UPDATE pools SET capacity_min = $2, capacity_max = $3 WHERE name = $1", pool, minimum, maximum
        )
        return group

    return add


async def read_group(context: Context, group: str) -> tuple[int, int, int]:
    """Its minimum, maximum and desired capacity."""
    answer = await context.aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group])
    [found] = answer["AutoScalingGroups"]
    return found["MinSize"], found["MaxSize"], found["DesiredCapacity"]


async def look(context: Context) -> None:
    """Look at all pools, as if scale_seconds had passed."""
    await context.database.execute("UPDATE pools SET scaled_at = NULL")
    while await scale.step(context):
        pass


async def submit(play: Play, tasks: int, **changes: Any) -> UUID:
    job_id = await play.submit(**changes)
    await play.plan(job_id, tasks)
    return job_id


async def add_workers(play: Play, *idle_seconds: float | None) -> list[UUID]:
    """Workers of `default`, idle for this many seconds; None: busy."""
    workers = [await play.register() for _ in idle_seconds]
    for worker_id, seconds in zip(workers, idle_seconds, strict=True):
        await play.database.execute(
            "UPDATE workers SET busy = ($2::float8 IS NULL)::integer, idle_since = now() - $2 * interval '1 second' "
            "WHERE worker_id = $1",
            worker_id,
            seconds,
        )
    return workers


async def draining(play: Play) -> list[UUID]:
    return [
        row["worker_id"] for row in await play.database.fetch("SELECT worker_id FROM workers WHERE state = 'draining'")
    ]


@pytest.mark.both_emulators("SetDesiredCapacity")
async def test_a_backlog_adds_nodes_up_to_the_maximum(context: Context, play: Play, add_group: AddGroup) -> None:
    group = await add_group()
    await submit(play, 24)  # of unknown time: taken for 10 s each, so 240 s for nodes of 2 slots that get 60 s
    await look(context)
    assert await read_group(context, group) == (0, 4, 2)
    assert await play.database.fetchval("SELECT capacity_desired FROM pools") == 2

    await submit(play, 1000)
    await look(context)
    assert await read_group(context, group) == (0, 4, 4)


async def test_the_measured_time_counts_and_so_does_what_runs(
    context: Context, play: Play, add_group: AddGroup
) -> None:
    group = await add_group()
    job_id = await submit(play, 1001)
    await play.run_all(await submit(play, 1))  # of another job
    worker_id = await play.register()
    await play.succeed(worker_id, await play.run(worker_id, job_id, tasks=1))  # half a second
    await play.run(worker_id, job_id, tasks=400)
    await play.dispatch(job_id, tasks=300)

    await look(context)

    assert (await read_group(context, group))[2] == 4  # 1000 tasks of half a second
    await play.database.execute("UPDATE stage_counters SET busy_seconds = busy_seconds / 10")
    group = await add_group()
    await look(context)
    assert (await read_group(context, group))[2] == 1


async def test_only_what_may_run_now_is_backlog(context: Context, play: Play, add_group: AddGroup) -> None:
    group = await add_group()
    large = await add_group("large")
    paused = await submit(play, 100)
    await play.database.execute("UPDATE jobs SET state = 'paused' WHERE job_id = $1", paused)
    await submit(play, 24, stages=[{"processor": "noop", "pool": "large"}])

    await look(context)

    assert (await read_group(context, group))[2] == 0
    assert (await read_group(context, large))[2] == 2


@pytest.mark.both_emulators("UpdateAutoScalingGroup")
async def test_the_groups_bounds_follow_the_pools(context: Context, play: Play, add_group: AddGroup) -> None:
    group = await add_group(minimum=2, maximum=3)
    await look(context)
    assert await read_group(context, group) == (2, 3, 2)

    await play.database.execute("UPDATE pools SET capacity_min = 3, capacity_max = 6")
    await look(context)
    assert await read_group(context, group) == (3, 6, 3)


async def test_a_lower_maximum_cuts_off_no_node(context: Context, play: Play, add_group: AddGroup) -> None:
    group = await add_group(minimum=0, maximum=1, desired=3)
    idle, busy, _ = await add_workers(play, 500, None, None)
    await submit(play, 1000)

    await look(context)

    assert await read_group(context, group) == (0, 3, 3)
    assert await draining(play) == [idle]
    assert busy not in await draining(play)
    await context.aws.autoscaling.set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=2)
    await look(context)
    assert await read_group(context, group) == (0, 2, 2)


async def test_surplus_nodes_are_drained_when_idle_for_long_enough(
    context: Context, play: Play, add_group: AddGroup
) -> None:
    group = await add_group(minimum=1, desired=4)
    longest, _busy, long, _short = await add_workers(play, 900, None, 500, 60)

    await look(context)

    assert sorted(await draining(play)) == sorted([longest, long])
    assert (await read_group(context, group))[2] == 4  # each node ends by itself, and takes its place with it
    await look(context)
    assert len(await draining(play)) == 2


async def test_no_more_are_drained_than_are_too_many(context: Context, play: Play, add_group: AddGroup) -> None:
    await add_group(minimum=2, desired=4)
    workers = await add_workers(play, 600, 700, 800, 900)
    await look(context)
    assert sorted(await draining(play)) == sorted(workers[2:])
    for _ in range(3):
        await look(context)
    assert len(await draining(play)) == 2


async def test_a_pool_is_looked_at_once_in_scale_seconds_by_however_many_schedulers(
    context: Context, other: Context, play: Play, add_group: AddGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_group()
    await add_group("large")
    await add_pool(play.database, "fixed")  # without a group
    looked: list[str] = []
    plain = context.aws.autoscaling.describe_auto_scaling_groups

    async def describe(*, AutoScalingGroupNames: list[str]) -> Any:
        looked.extend(AutoScalingGroupNames)
        return await plain(AutoScalingGroupNames=AutoScalingGroupNames)

    monkeypatch.setattr(context.aws.autoscaling, "describe_auto_scaling_groups", describe)

    async def all_of(each: Context) -> None:
        while await scale.step(each):
            pass

    await asyncio.gather(*(all_of(each) for each in (context, other, context, other)))

    assert len(looked) == len(set(looked)) == 2


async def test_a_group_that_is_gone_or_refuses_holds_up_no_other(
    context: Context, play: Play, add_group: AddGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_group("gone", name="no-such-group")
    refusing = await add_group("refusing", minimum=1)
    fine = await add_group("fine", minimum=1)
    plain = context.aws.autoscaling.update_auto_scaling_group

    async def update(**arguments: Any) -> Any:
        if arguments["AutoScalingGroupName"] == refusing:
            raise ClientError({"Error": {"Code": "ScalingActivityInProgress", "Message": ""}}, "Update")
        return await plain(**arguments)

    monkeypatch.setattr(context.aws.autoscaling, "update_auto_scaling_group", update)
    failures = 0
    for _ in range(4):
        try:
            await scale.step(context)
        except ClientError:
            failures += 1

    assert failures == 1
    assert (await read_group(context, fine))[2] == 1
