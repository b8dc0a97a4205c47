"""The fleet keeps one worker process for each instance of the pools' groups."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import psutil
import pytest

from deploy.local.fleet import POOL_TAG, Fleet, FleetSettings, Instance
from services.platform.aws import Aws
from services.platform.settings import Settings
from tests.until import until

# Stands for a worker: leaves its process id under its instance's name, and says so when it was drained.
WORKER = """
import os, pathlib, signal, sys
mine = pathlib.Path(sys.argv[1]) / os.environ["PIECEWORK_INSTANCE_ID"]
def drain(number, frame):
    mine.with_suffix(".drained").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, drain)
mine.with_suffix(".new").write_text(f"{os.getpid()} {sys.argv[2]}")
mine.with_suffix(".new").rename(mine.with_suffix(".started"))
while True:
    signal.pause()
"""

# The fleet as a process of its own, with such workers.
FLEET = """
import asyncio, sys
from pathlib import Path
from deploy.local.fleet import Fleet, FleetSettings
from services.platform.aws import connect_aws
from tests.integration.local.test_fleet import command_in
async def main():
    settings, directory = FleetSettings(), Path(sys.argv[1])
    async with connect_aws(settings) as aws:
        await Fleet(aws.autoscaling, directory, settings, command_in(directory)).run()
asyncio.run(main())
"""


def command_in(directory: Path):  # type: ignore[no-untyped-def]
    def command(instance: Instance) -> Sequence[str]:
        return [sys.executable, "-c", WORKER, str(directory), instance.pool]

    return command


@dataclass(frozen=True)
class Nodes:
    """What the workers left in their directory."""

    directory: Path

    def started(self) -> dict[str, int]:
        """Instance id → process id of its newest worker."""
        return {file.stem: int(file.read_text().split()[0]) for file in self.directory.glob("*.started")}

    def pools(self) -> set[str]:
        return {file.read_text().split()[1] for file in self.directory.glob("*.started")}

    def drained(self) -> set[str]:
        return {file.stem for file in self.directory.glob("*.drained")}


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    return Nodes(tmp_path)


@pytest.fixture
async def group(aws: Aws) -> AsyncIterator[str]:
    """A group with two instances that belongs to the pool `video` by its tag."""
    name = f"nodes-{uuid4().hex}"
    await aws.autoscaling.create_auto_scaling_group(
        AutoScalingGroupName=name,
        MinSize=0,
        MaxSize=5,
        DesiredCapacity=2,
        AvailabilityZones=["us-east-1a"],
        Tags=[{"Key": POOL_TAG, "Value": "video", "PropagateAtLaunch": True}],
    )
    yield name
    await aws.autoscaling.delete_auto_scaling_group(AutoScalingGroupName=name, ForceDelete=True)


@pytest.fixture
async def fleet(aws: Aws, settings: Settings, nodes: Nodes, group: str) -> AsyncIterator[asyncio.Task[None]]:
    """A running fleet; cancelling it is how it is stopped."""
    quick = FleetSettings(**settings.model_dump(), fleet_poll_seconds=0.02)
    running = asyncio.create_task(Fleet(aws.autoscaling, nodes.directory, quick, command_in(nodes.directory)).run())
    await until(lambda: len(nodes.started()) == 2)
    yield running
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.usefixtures("fleet")
async def test_each_instance_of_a_pools_group_gets_a_worker_of_that_pool(aws: Aws, group: str, nodes: Nodes) -> None:
    await aws.autoscaling.set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=4)
    await until(lambda: len(nodes.started()) == 4)
    assert nodes.pools() == {"video"}


@pytest.mark.usefixtures("fleet")
async def test_an_instance_that_leaves_the_group_has_its_worker_drained(aws: Aws, nodes: Nodes) -> None:
    [first, second] = nodes.started()
    workers = nodes.started()

    await aws.autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=first, ShouldDecrementDesiredCapacity=True
    )

    await until(lambda: not psutil.pid_exists(workers[first]))
    assert nodes.drained() == {first}
    assert psutil.pid_exists(workers[second])


@pytest.mark.usefixtures("fleet")
async def test_a_worker_that_died_is_started_again_for_its_instance(nodes: Nodes) -> None:
    before = nodes.started()
    [instance, other] = before

    psutil.Process(before[instance]).kill()

    await until(lambda: nodes.started()[instance] != before[instance])
    assert nodes.started()[other] == before[other]


async def test_a_stop_drains_all_workers(fleet: asyncio.Task[None], nodes: Nodes) -> None:
    workers = nodes.started()
    fleet.cancel()
    await asyncio.wait([fleet])
    assert nodes.drained() == set(workers)
    assert not any(psutil.pid_exists(pid) for pid in workers.values())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
async def test_a_killed_fleet_leaves_no_worker_behind(settings: Settings, group: str, nodes: Nodes) -> None:
    environment = {"PIECEWORK_AWS_ENDPOINT_URL": str(settings.aws_endpoint_url)}
    process = psutil.Popen([sys.executable, "-c", FLEET, str(nodes.directory)], env={**os.environ, **environment})
    await until(lambda: len(nodes.started()) == 2)

    process.send_signal(signal.SIGKILL)
    process.wait()

    await until(lambda: not any(psutil.pid_exists(pid) for pid in nodes.started().values()))


async def test_a_worker_whose_node_is_unfit_is_started_again_ever_more_slowly(
    aws: Aws, settings: Settings, group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.Event().wait() if len(pauses) == 7 else None

    def unfit(_: Instance) -> Sequence[str]:
        return [sys.executable, "-S", "-c", f"raise SystemExit({os.EX_TEMPFAIL})"]

    node = Fleet(aws.autoscaling, tmp_path, FleetSettings(**settings.model_dump()), unfit)
    # Not asyncio's own, by which servers in other threads of this process sleep.
    monkeypatch.setattr("deploy.local.fleet.asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    keeping = asyncio.create_task(node._keep_worker(Instance("i-1", "default")))

    async def paused() -> bool:
        return len(pauses) == 7

    while not await paused():
        await asyncio.wait({keeping}, timeout=0.05)
    keeping.cancel()
    assert pauses == [30, 60, 120, 240, 480, 600, 600]
