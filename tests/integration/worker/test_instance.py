"""A node on EC2: what it says of its instance, what it does when that ends, and how it ends it itself."""

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from botocore.exceptions import ClientError

from services.engine import workers
from services.platform.version import VERSION
from services.worker.node import interruptions
from services.worker.node.instance_end import InstanceNotEnded
from tests.groups import create_group
from tests.imds import ImdsServer, imds_server
from tests.integration.worker.conftest import InProcessGrid
from tests.integration.worker.test_node import ITEM, runs, sleeper, start
from tests.invariants import assert_invariants

pytestmark = pytest.mark.usefixtures("tells_outside")


@pytest.fixture
async def imds(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ImdsServer]:
    async with imds_server() as server:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
        monkeypatch.setattr(interruptions, "POLL_SECONDS", 0.1)
        yield server


async def describe(grid: InProcessGrid, group: str) -> tuple[int, list[str]]:
    """The desired capacity of a group, and the ids of its instances."""
    answer = await grid.aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group])
    [found] = answer["AutoScalingGroups"]
    return found["DesiredCapacity"], [instance["InstanceId"] for instance in found["Instances"]]


async def put_in_group(grid: InProcessGrid, imds: ImdsServer, minimum: int = 0) -> tuple[str, str]:
    """This machine is the only instance of the pool's group. Returns the group's name and the instance's id."""
    group = await create_group(grid.aws, minimum=minimum, maximum=3, desired=1)
    await grid.database.execute("UPDATE pools SET group_name = $1", group)
    _, [instance_id] = await describe(grid, group)
    imds.items["instance-id"] = instance_id
    return group, instance_id


def password_in_file(grid: InProcessGrid, file: Path) -> dict[str, str]:
    """Settings of a worker whose URL has no password."""
    place = urlsplit(grid.settings.database_url)
    file.write_text(unquote(place.password or ""))
    url = place._replace(netloc=f"{place.username}@{place.netloc.rpartition('@')[2]}").geturl()
    return {"database_url": url, "database_password_from": f"file:{file}"}


async def stopped(grid: InProcessGrid) -> Any:
    """The worker, as soon as it has stopped."""
    await grid.until("SELECT count(*) = 1 FROM workers WHERE state = 'stopped'")
    return await grid.worker()


async def order_drain(grid: InProcessGrid, **facts: Any) -> None:
    await grid.until("SELECT count(*) = 1 FROM workers WHERE state = 'active'")
    async with grid.database.acquire() as connection:
        await workers.drain_worker(connection, (await grid.worker())["worker_id"], "a test", **facts)


async def test_a_worker_registers_with_what_ec2_says_of_its_instance(grid: InProcessGrid, imds: ImdsServer) -> None:
    async with grid.node(instance_id=None):
        await grid.until("SELECT count(*) = 1 FROM workers")
    row = await grid.worker()
    assert [row[name] for name in ("instance_id", "instance_type", "zone", "market")] == [
        *("i-0123456789abcdef0", "m7g.large", "eu-central-1a", "spot")
    ]


async def test_the_settings_instance_id_counts_more(grid: InProcessGrid, imds: ImdsServer) -> None:
    async with grid.node(instance_id="i-of-mine"):
        await grid.until("SELECT count(*) = 1 FROM workers")
    row = await grid.worker()
    assert (row["instance_id"], row["zone"]) == ("i-of-mine", "eu-central-1a")


async def test_a_spot_notice_releases_what_runs_in_time_and_counts_against_no_task(
    grid: InProcessGrid, imds: ImdsServer, tmp_path: Path
) -> None:
    group, instance_id = await put_in_group(grid, imds)
    job_id = await grid.submit(sleeper(1000, tmp_path / "pid"), [ITEM] * 3)
    await grid.dispatch(job_id)
    async with grid.node(slots=1):
        await runs(grid, tmp_path / "pid")
        imds.interrupt(seconds=31)  # of which 30 are kept for what follows the drain
        worker = await stopped(grid)

    assert worker["drain_reason"].startswith("EC2 takes its Spot instance back (terminate) at ")
    assert worker["interrupted_at"] is not None and worker["replace_instance"]
    tasks = await grid.tasks(job_id)
    assert {task["state"] for task in tasks} <= {"ready", "queued"}
    assert {(task["failures"], task["losses"]) for task in tasks} == {(0, 0)}
    assert {attempt["outcome"] for attempt in await grid.attempts(job_id)} == {"released"}
    desired, [other] = await describe(grid, group)
    assert desired == 1 and other != instance_id, "the group does not get smaller by it"


async def test_a_spot_notice_gives_no_more_time_than_ec2_and_no_more_than_the_settings(
    grid: InProcessGrid, imds: ImdsServer, tmp_path: Path
) -> None:
    job_id = await grid.submit(sleeper(1000, tmp_path / "pid"), [ITEM])
    await grid.dispatch(job_id)
    async with grid.node(drain_seconds=0.5, instance_id=None):
        await runs(grid, tmp_path / "pid")
        began_at = time.monotonic()
        imds.interrupt(seconds=120)
        await stopped(grid)
    assert time.monotonic() - began_at < 20


async def test_a_recommendation_lets_what_runs_end_by_itself_until_it_gets_urgent(
    grid: InProcessGrid, imds: ImdsServer, tmp_path: Path
) -> None:
    quick = await grid.submit(sleeper(1.5, tmp_path / "quick"), [ITEM])
    await grid.dispatch(quick)
    async with grid.node(drain_seconds=0.1):
        await runs(grid, tmp_path / "quick")
        imds.recommend_rebalance()
        worker = await stopped(grid)
    assert [task["state"] for task in await grid.tasks(quick)] == ["succeeded"]
    assert worker["interrupted_at"] is None and "recommends" in worker["drain_reason"]


async def test_a_notice_during_a_patient_drain_ends_it(grid: InProcessGrid, imds: ImdsServer, tmp_path: Path) -> None:
    job_id = await grid.submit(sleeper(1000, tmp_path / "pid"), [ITEM])
    await grid.dispatch(job_id)
    async with grid.node():
        await runs(grid, tmp_path / "pid")
        imds.schedule()
        await grid.until("SELECT count(*) = 1 FROM workers WHERE drain_reason LIKE '%instance-retirement%'")
        assert [task["state"] for task in await grid.tasks(job_id)] == ["running"]
        imds.interrupt(seconds=30.5)
        worker = await stopped(grid)
    assert "Spot" in worker["drain_reason"]
    assert [(task["state"], task["losses"]) for task in await grid.tasks(job_id)] == [("ready", 0)]


@pytest.mark.both_emulators(
    "CompleteLifecycleAction", "RecordLifecycleActionHeartbeat", moto="it has no actions of lifecycle hooks"
)
async def test_an_instance_that_its_group_ends_is_kept_by_the_hook_until_it_has_drained(
    grid: InProcessGrid, imds: ImdsServer, tmp_path: Path
) -> None:
    group, instance_id = await put_in_group(grid, imds)
    hook = {"LifecycleHookName": "drain", "AutoScalingGroupName": group}
    await grid.aws.autoscaling.put_lifecycle_hook(
        **hook, LifecycleTransition="autoscaling:EC2_INSTANCE_TERMINATING", HeartbeatTimeout=30
    )
    job_id = await grid.submit(sleeper(1.5, tmp_path / "pid"), [ITEM])
    await grid.dispatch(job_id)
    action = hook | {"InstanceId": instance_id}
    async with grid.node(lifecycle_hook="drain", **password_in_file(grid, tmp_path / "password")):
        await runs(grid, tmp_path / "pid")
        await grid.aws.autoscaling.terminate_instance_in_auto_scaling_group(
            InstanceId=instance_id, ShouldDecrementDesiredCapacity=False
        )
        imds.items["autoscaling/target-lifecycle-state"] = "Terminated"
        await grid.until("SELECT count(*) = 1 FROM workers WHERE drain_reason LIKE 'its Auto Scaling group%'")
        await grid.aws.autoscaling.record_lifecycle_action_heartbeat(**action)
    assert [task["state"] for task in await grid.tasks(job_id)] == ["succeeded"]
    with pytest.raises(ClientError, match="No active Lifecycle Action"):
        await grid.aws.autoscaling.record_lifecycle_action_heartbeat(**action)


async def test_a_worker_that_is_told_of_nothing_works_on(
    grid: InProcessGrid, imds: ImdsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    imds.items["autoscaling/target-lifecycle-state"] = "Standby"
    imds.schedule(State="completed")
    job_id = await grid.submit({"command": ["true"]}, [ITEM] * 3)
    await grid.dispatch(job_id)
    async with grid.node():
        await grid.ended(job_id)
        await grid.until("SELECT count(*) = 1 FROM workers WHERE state = 'active'")


async def test_without_instance_metadata_nothing_happens(grid: InProcessGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(interruptions, "POLL_SECONDS", 0.01)
    job_id = await grid.submit({"command": ["true"]}, [ITEM] * 3)
    await grid.dispatch(job_id)
    async with grid.node():
        await grid.ended(job_id)
        await grid.until("SELECT count(*) = 1 FROM workers WHERE state = 'active' AND instance_id IS NULL")


async def test_a_group_that_may_not_get_smaller_replaces_the_instance(grid: InProcessGrid, imds: ImdsServer) -> None:
    group, instance_id = await put_in_group(grid, imds, minimum=1)
    async with grid.node():
        await order_drain(grid)
        await stopped(grid)
    desired, [other] = await describe(grid, group)
    assert desired == 1 and other != instance_id


async def test_a_worker_that_is_to_be_replaced_leaves_its_group_as_large(grid: InProcessGrid, imds: ImdsServer) -> None:
    group, instance_id = await put_in_group(grid, imds)
    async with grid.node():
        await order_drain(grid, replace_instance=True)
        await stopped(grid)
    desired, [other] = await describe(grid, group)
    assert desired == 1 and other != instance_id


@pytest.mark.both_emulators("SetInstanceHealth", "TerminateInstanceInAutoScalingGroup")
async def test_an_instance_that_auto_scaling_does_not_end_is_powered_off(grid: InProcessGrid, tmp_path: Path) -> None:
    async with grid.node(instance_id="i-unknown", power_off=f"touch {tmp_path}/off"):
        await order_drain(grid)
        await stopped(grid)
    assert (tmp_path / "off").exists()


async def test_a_node_that_can_not_end_its_instance_at_all_says_so(grid: InProcessGrid) -> None:
    with pytest.raises(InstanceNotEnded, match="i-unknown"):
        async with grid.node(instance_id="i-unknown", power_off="false"):
            await order_drain(grid)
            await stopped(grid)


async def test_its_process_ends_with_an_exit_code_that_says_so(grid: InProcessGrid) -> None:
    process = start(grid, PIECEWORK_INSTANCE_ID="i-unknown")
    await order_drain(grid)
    assert await process.ended() == os.EX_OSERR
    assert "i-unknown could not be ended" in process.output


async def test_two_busy_workers_of_an_old_release_are_replaced_and_their_jobs_results_are_the_same(
    grid: InProcessGrid, imds: ImdsServer, tmp_path: Path
) -> None:
    group = await create_group(grid.aws, maximum=3, desired=2)
    await grid.database.execute("UPDATE pools SET group_name = $1", group)
    _, old = await describe(grid, group)
    job_id = await grid.submit(sleeper(1.5, tmp_path / "pid"), [ITEM] * 8)
    await grid.dispatch(job_id)
    async with grid.node(slots=1, instance_id=old[0]), grid.node(slots=1, instance_id=old[1]):
        await grid.until("SELECT count(*) = 2 FROM workers WHERE busy > 0")
        await grid.database.execute("UPDATE workers SET release = '0.1.0'")
        async with grid.database.acquire() as connection, connection.transaction():
            told = await workers.drain_pool(connection, "default", "a roll", release_not=VERSION, replace_instance=True)
        assert (len(told.worker_ids), told.remaining) == (2, 0)
        await grid.until("SELECT count(*) = 2 FROM workers WHERE state = 'stopped'")
    desired, new = await describe(grid, group)
    assert desired == len(new) == 2 and not set(old) & set(new)
    async with grid.node(instance_id=new[0]):
        async with grid.database.acquire() as connection:  # as the scheduler does: what was released waits again
            await connection.execute("UPDATE tasks SET ready_at = now() WHERE state = 'ready'")
        await grid.dispatch(job_id)
        await grid.ended(job_id)
    tasks = await grid.tasks(job_id)
    assert {(task["state"], task["failures"], task["losses"]) for task in tasks} == {("succeeded", 0, 0)}
    assert len(tasks) == 8 and {task["attempt"] for task in tasks} <= {1, 2}
    await assert_invariants(grid.database, job_id)
