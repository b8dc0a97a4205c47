"""A pool's Auto Scaling group follows the backlog, within bounds, and no node with work is cut off."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from botocore.exceptions import ClientError

from services.engine import workers
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
    await context.database.execute("UPDATE pools SET scaled_at = now() - interval '30 seconds'")
    while await scale.step(context):
        pass


async def instances_of(context: Context, group: str) -> list[str]:
    answer = await context.aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group])
    return [each["InstanceId"] for each in answer["AutoScalingGroups"][0]["Instances"]]


async def pass_time(play: Play, seconds: float) -> None:
    """What was seen of the instances, and done about them, was so long ago."""
    ago = f"interval '{seconds} seconds'"
    await play.database.execute(f"UPDATE instances SET missing_since = missing_since - {ago}")
    await play.database.execute(f"UPDATE pools SET replace_at = replace_at - {ago}")


async def read_pool(play: Play) -> dict[str, Any]:
    return dict(await play.database.fetchrow("SELECT * FROM pools WHERE name = 'default'"))


async def submit(play: Play, tasks: int, **changes: Any) -> UUID:
    job_id = await play.submit(**changes)
    await play.plan(job_id, tasks)
    return job_id


async def add_workers(play: Play, *idle_seconds: float | None) -> list[UUID]:
    """Workers of `default`, idle for this many seconds; None: busy."""
    added = [await play.register() for _ in idle_seconds]
    for worker_id, seconds in zip(added, idle_seconds, strict=True):
        await play.database.execute(
            "UPDATE workers SET busy = ($2::float8 IS NULL)::integer, idle_since = now() - $2 * interval '1 second' "
            "WHERE worker_id = $1",
            worker_id,
            seconds,
        )
    return added


async def draining(play: Play) -> list[UUID]:
    return [
        row["worker_id"] for row in await play.database.fetch("SELECT worker_id FROM workers WHERE state = 'draining'")
    ]


@pytest.mark.both_emulators("SetDesiredCapacity")
async def test_a_backlog_adds_nodes_up_to_the_maximum(context: Context, play: Play, add_group: AddGroup) -> None:
    group = await add_group()
    await submit(play, 24)  # of unknown time: taken for 10 s each, so 240 s for nodes of 2 slots that get 60 s
    await look(context)
    assert await read_group(context, group) == (0, 10, 2)
    assert await play.database.fetchval("SELECT capacity_desired FROM pools") == 2

    await submit(play, 1000)
    await look(context)
    assert await read_group(context, group) == (0, 10, 4)


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


async def test_the_bounds_are_the_pools_and_the_groups_own_do_not_change(
    context: Context, play: Play, add_group: AddGroup
) -> None:
    group = await add_group(minimum=2, maximum=3)
    await look(context)
    assert await read_group(context, group) == (0, 10, 2)

    await play.database.execute("UPDATE pools SET capacity_min = 3, capacity_max = 6")
    await look(context)
    assert await read_group(context, group) == (0, 10, 3)


async def test_a_group_that_may_not_have_as_many_nodes_as_its_pool_wants_gets_what_it_may_and_the_pool_says_so(
    context: Context, play: Play, add_group: AddGroup
) -> None:
    group = await add_group(maximum=50)
    job_id = await submit(play, 1000)
    await look(context)
    await look(context)
    assert await read_group(context, group) == (0, 10, 10)
    pool = await read_pool(play)
    assert "wants 50 nodes" in pool["scaling_error"] and "at most 10" in pool["scaling_error"]
    assert (pool["instances"], pool["capacity_desired"]) == (10, 10)

    await play.database.execute("UPDATE jobs SET state = 'paused' WHERE job_id = $1", job_id)
    await look(context)
    assert (await read_pool(play))["scaling_error"] is None


async def test_a_group_that_keeps_more_nodes_than_its_pool_wants_loses_none_below_that(
    context: Context, play: Play, add_group: AddGroup
) -> None:
    group = await create_group(context.aws, minimum=2, maximum=10, desired=3)
    await add_group(name=group)
    added = await add_workers(play, 900, 500, 300)

    await look(context)
    await look(context)

    assert await draining(play) == added[:1]
    assert "keeps at least 2" in (await read_pool(play))["scaling_error"]


async def test_a_lower_maximum_cuts_off_no_node(context: Context, play: Play, add_group: AddGroup) -> None:
    group = await add_group(minimum=0, maximum=1, desired=3)
    idle, busy, _ = await add_workers(play, 500, None, None)
    await submit(play, 1000)

    await look(context)

    assert await read_group(context, group) == (0, 10, 3)
    assert await draining(play) == [idle]
    assert busy not in await draining(play)


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


async def test_workers_that_drain_to_be_replaced_make_no_group_smaller(
    context: Context, play: Play, add_group: AddGroup
) -> None:
    await add_group(minimum=1, desired=2)
    replaced, idle = await add_workers(play, None, 900)
    async with play.database.acquire() as connection:
        await workers.drain_worker(connection, replaced, "too old", replace_instance=True)
    await look(context)
    assert await draining(play) == [replaced], "one other is wanted, and the new one may never come"
    await add_workers(play, None)
    await look(context)
    assert sorted(await draining(play)) == sorted([replaced, idle])


async def test_no_more_are_drained_than_are_too_many(context: Context, play: Play, add_group: AddGroup) -> None:
    await add_group(minimum=2, desired=4)
    added = await add_workers(play, 600, 700, 800, 900)
    await look(context)
    assert sorted(await draining(play)) == sorted(added[2:])
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
    plain = context.aws.autoscaling.set_desired_capacity

    async def set_desired(**arguments: Any) -> Any:
        if arguments["AutoScalingGroupName"] == refusing:
            raise ClientError({"Error": {"Code": "ScalingActivityInProgress", "Message": ""}}, "Set")
        return await plain(**arguments)

    monkeypatch.setattr(context.aws.autoscaling, "set_desired_capacity", set_desired)
    failures = 0
    for _ in range(4):
        try:
            await scale.step(context)
        except ClientError:
            failures += 1

    assert failures == 1
    assert (await read_group(context, fine))[2] == 1


async def test_the_pool_tells_how_many_of_its_instances_have_no_worker_and_since_when(
    context: Context, play: Play, add_group: AddGroup
) -> None:
    group = await add_group(minimum=3)
    await look(context)
    await look(context)
    first, *others = await instances_of(context, group)
    pool = await read_pool(play)
    assert (pool["instances"], pool["instances_missing"], pool["scaling_error"]) == (3, 3, None)
    missing_since = pool["instances_missing_since"]
    assert missing_since is not None

    await play.register(instance_id=first)
    await look(context)

    pool = await read_pool(play)
    assert (pool["instances"], pool["instances_missing"]) == (3, 2)
    assert pool["instances_missing_since"] == missing_since
    named = await play.database.fetch("SELECT instance_id FROM instances WHERE missing_since IS NOT NULL")
    assert sorted(row["instance_id"] for row in named) == sorted(others)
    for instance_id in others:
        await play.register(instance_id=instance_id)
    await look(context)
    pool = await read_pool(play)
    assert (pool["instances_missing"], pool["instances_missing_since"]) == (0, None)


async def test_instances_that_never_register_are_replaced_and_those_of_live_workers_stay(
    context: Context, play: Play, add_group: AddGroup
) -> None:
    group = await add_group(minimum=3)
    await look(context)
    await look(context)
    live, *dead = await instances_of(context, group)
    await play.register(instance_id=live)
    await pass_time(play, context.settings.register_seconds - 1)
    await look(context)
    assert set(await instances_of(context, group)) == {live, *dead}

    await pass_time(play, 2)
    await look(context)

    there = await instances_of(context, group)
    assert live in there and not set(dead) & set(there)
    assert len(there) == 3 and (await read_group(context, group))[2] == 3


async def test_an_image_that_never_works_is_tried_ever_more_slowly_until_it_works(
    context: Context, play: Play, add_group: AddGroup
) -> None:
    group = await add_group(minimum=2)
    await look(context)
    patience = context.settings.register_seconds
    before, pauses, looks = set(await instances_of(context, group)), list[float](), 0
    while not pauses or pauses[-1] < 3590:
        await look(context)
        if set(there := await instances_of(context, group)) != before:
            before = set(there)
            pauses.append(await play.database.fetchval("SELECT extract(epoch FROM replace_at - now()) FROM pools"))
        await pass_time(play, patience)
        looks += 1
        assert looks < 50
    assert [float(pause) for pause in pauses] == pytest.approx([60, 120, 240, 480, 960, 1920, 3600], abs=10)
    assert (await read_pool(play))["replacements"] == len(pauses)

    for instance_id in await instances_of(context, group):
        await play.register(instance_id=instance_id)
    await pass_time(play, 3600 + patience)
    await look(context)

    assert set(await instances_of(context, group)) == before
    assert (await read_pool(play))["replacements"] == 0


async def test_too_many_instances_lose_the_dead_first_and_keep_as_many_live_workers_as_are_wanted(
    context: Context, play: Play, add_group: AddGroup
) -> None:
    group = await add_group(maximum=4, desired=4)
    await submit(play, 2)  # one node is wanted
    await look(context)
    live, *_dead = await instances_of(context, group)
    [worker_id] = await add_workers(play, 10_000)
    await play.database.execute("UPDATE workers SET instance_id = $1", live)
    await look(context)
    assert await draining(play) == [], "the others may never come"

    await pass_time(play, context.settings.register_seconds)
    await look(context)

    assert await instances_of(context, group) == [live]
    assert (await read_group(context, group))[2] == 1
    assert await draining(play) == [] and worker_id


async def test_an_instance_whose_drained_worker_could_not_end_it_is_ended(
    context: Context, play: Play, add_group: AddGroup
) -> None:
    group = await add_group(minimum=0, desired=1)
    [instance_id] = await instances_of(context, group)
    worker_id = await play.register(instance_id=instance_id)
    await look(context)
    await play.database.execute("UPDATE workers SET state = 'stopped' WHERE worker_id = $1", worker_id)
    await look(context)
    assert await instances_of(context, group) == [instance_id]

    await pass_time(play, context.settings.register_seconds)
    await look(context)

    assert await instances_of(context, group) == []
    assert (await read_group(context, group))[2] == 0


async def test_an_instance_whose_worker_took_itself_out_of_service_is_replaced_at_once(
    context: Context, play: Play, add_group: AddGroup
) -> None:
    group = await add_group(minimum=2)
    await look(context)
    sick, well = await instances_of(context, group)
    worker_id, _ = await play.register(instance_id=sick), await play.register(instance_id=well)
    await workers.quarantine_worker(play.database, worker_id, "its disk is full")
    await look(context)
    assert set(await instances_of(context, group)) == {sick, well}, "its last tasks may still run"

    await workers.stop_worker(play.database, worker_id)
    await look(context)

    there = await instances_of(context, group)
    assert well in there and sick not in there and len(there) == 2


async def test_no_instance_is_replaced_for_the_time_in_which_nobody_looked(
    context: Context, play: Play, add_group: AddGroup
) -> None:
    group = await add_group(minimum=2)
    await look(context)
    await look(context)
    before = await instances_of(context, group)
    await pass_time(play, context.settings.register_seconds)
    await play.database.execute("UPDATE pools SET scaled_at = now() - interval '1 hour'")
    await scale.step(context)
    await look(context)
    assert await instances_of(context, group) == before


async def test_without_the_instances_of_workers_none_is_replaced_and_the_pool_says_why(
    context: Context, play: Play, add_group: AddGroup
) -> None:
    group = await add_group(minimum=3)
    await look(context)
    await look(context)
    before = await instances_of(context, group)
    await play.register()
    await pass_time(play, context.settings.register_seconds)

    await look(context)

    assert await instances_of(context, group) == before
    pool = await read_pool(play)
    assert pool["instances_missing"] == 2
    assert "PIECEWORK_INSTANCE_ID" in pool["scaling_error"]


async def test_a_pool_says_why_it_is_not_scaled(
    context: Context, play: Play, add_group: AddGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = await add_group(name="no-such-group")
    await look(context)
    pool = await read_pool(play)
    assert pool["scaling_error"] == f"there is no Auto Scaling group {group} in this account and region"
    since = pool["scaling_error_since"]
    await look(context)
    assert (await read_pool(play))["scaling_error_since"] == since

    group = await add_group()
    refused = ClientError({"Error": {"Code": "AccessDenied", "Message": "not yours"}}, "SetDesiredCapacity")

    async def refuse(**_: Any) -> Any:
        raise refused

    with monkeypatch.context() as patch:
        patch.setattr(context.aws.autoscaling, "set_desired_capacity", refuse)
        await submit(play, 100)
        with pytest.raises(ClientError):
            await look(context)
    assert "not yours" in (await read_pool(play))["scaling_error"]

    await look(context)
    pool = await read_pool(play)
    assert (pool["scaling_error"], pool["scaling_error_since"]) == (None, None)


async def test_nodes_are_asked_for_by_how_many_tasks_of_a_size_fit_on_one(
    context: Context, play: Play, add_group: AddGroup
) -> None:
    group = await add_group(maximum=9)
    node = {"cpus": 8.0, "memory": 1 << 35, "gpus": 0, "disk": 0}
    await play.database.execute("UPDATE pools SET largest_node = $1", node)
    for needs, tasks in (({"cpus": 8}, 10), ({"cpus": 1, "memory": "1GiB"}, 8)):
        job_id = await play.submit(stages=[{"processor": "noop", **needs}])
        await play.plan(job_id, tasks)
    await look(context)
    assert await read_group(context, group) == (0, 10, 2)  # for 10 x 10 s, and 10 s in which 8 run at once
    await play.database.execute("UPDATE stages SET needs = '{\"cpus\": 16}'")
    await pass_time(play, 600)
    await look(context)
    pool = await play.database.fetchrow("SELECT capacity_desired FROM pools")
    assert pool is not None and pool["capacity_desired"] == 0  # none of its nodes would help
