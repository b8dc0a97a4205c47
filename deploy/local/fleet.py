"""The stand-in for EC2: one local worker process for each instance of the pools' Auto Scaling groups.

`python -m deploy.local.fleet` does what launching and terminating instances does in AWS: an instance new in a group
gets a worker, one that left the group has its worker drained with SIGTERM, and a worker that ended by itself is started
again, as systemd would on the instance.
"""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import PositiveFloat

from deploy.local.process import STACK_VARIABLE, spawn, stop
from services.platform.aws import connect_aws
from services.platform.logs import configure_logs
from services.platform.process import hide_environment
from services.platform.settings import Settings

POOL_TAG = "piecework:pool"
GROUP_PREFIX = "piecework-"

_BACKOFF_SECONDS = 1.0
_BACKOFF_SECONDS_MAX = 30.0
_STEADY_SECONDS = 60.0  # a worker that ran this long was well: its next restart is a quick one again
_DRAINED_SECONDS = 10.0  # one that ended in order was drained: its instance is given time to leave the group
_UNFIT_SECONDS = 30.0  # one whose node is unfit: its instance is given time to be replaced, then ever more
_UNFIT_SECONDS_MAX = 600.0
_GRACE_SECONDS = 5.0  # beyond its drain, before a worker is killed

log = structlog.get_logger()


class FleetSettings(Settings):
    """How the local fleet treats its workers; durations in seconds."""

    fleet_poll_seconds: PositiveFloat = 0.5
    drain_seconds: PositiveFloat = 100.0  # of a worker: beyond that, and _GRACE_SECONDS, it is killed


@dataclass(frozen=True, slots=True)
class Instance:
    instance_id: str
    pool: str


WorkerCommand = Callable[[Instance], Sequence[str]]


def worker_command(instance: Instance) -> Sequence[str]:
    return [sys.executable, "-m", "services.worker", "--pool", instance.pool]


def pool_of(group: dict[str, Any]) -> str | None:
    """The pool of a described group: by its tag `piecework:pool`, else by its name `piecework-{pool}`."""
    for tag in group.get("Tags", []):
        if tag["Key"] == POOL_TAG:
            return str(tag["Value"])
    name = str(group["AutoScalingGroupName"])
    return name.removeprefix(GROUP_PREFIX) if name.startswith(GROUP_PREFIX) else None


async def find_instances(autoscaling: Any) -> set[Instance]:
    """The instances in service in all groups that belong to a pool."""
    instances = set()
    async for page in autoscaling.get_paginator("describe_auto_scaling_groups").paginate():
        for group in page["AutoScalingGroups"]:
            if pool := pool_of(group):
                members = group.get("Instances", [])
                instances |= {Instance(m["InstanceId"], pool) for m in members if m["LifecycleState"] == "InService"}
    return instances


class Fleet:
    """The worker processes of this machine."""

    def __init__(
        self, autoscaling: Any, logs: Path, settings: FleetSettings, command: WorkerCommand = worker_command
    ) -> None:
        self._autoscaling = autoscaling
        self._logs = logs
        self._settings = settings
        self._command = command
        self._nodes: dict[Instance, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Follow the groups until cancelled; then all workers are drained."""
        try:
            while True:
                try:
                    self._match(await find_instances(self._autoscaling))
                except (BotoCoreError, ClientError) as error:  # the groups are unknown now: what runs, runs on
                    log.warning("groups not read", error=str(error))
                await asyncio.sleep(self._settings.fleet_poll_seconds)
        finally:
            self._match(set())
            await asyncio.gather(*self._nodes.values(), return_exceptions=True)

    def _match(self, wanted: set[Instance]) -> None:
        for instance, node in list(self._nodes.items()):
            if node.done():
                if not node.cancelled() and (error := node.exception()):
                    log.error("worker not started", instance=instance.instance_id, error=str(error))
                del self._nodes[instance]
            elif instance not in wanted and not node.cancelling():
                log.info("instance terminated", instance=instance.instance_id, pool=instance.pool)
                node.cancel()
        for instance in wanted - self._nodes.keys():
            log.info("instance launched", instance=instance.instance_id, pool=instance.pool)
            self._nodes[instance] = asyncio.create_task(self._keep_worker(instance))

    async def _keep_worker(self, instance: Instance) -> None:
        """Run the instance's worker, again and again, until cancelled: then drain it."""
        backoff, unfit = _BACKOFF_SECONDS, _UNFIT_SECONDS
        while True:
            process = await self._start_worker(instance)
            started = time.monotonic()
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                await stop(process, signal.SIGTERM, self._settings.drain_seconds + _GRACE_SECONDS)
                raise
            if time.monotonic() - started > _STEADY_SECONDS:
                backoff = _BACKOFF_SECONDS
            if code == os.EX_TEMPFAIL:
                pause, unfit = unfit, min(2 * unfit, _UNFIT_SECONDS_MAX)
            else:
                pause = _DRAINED_SECONDS if code == 0 else backoff
                backoff = min(2 * backoff, _BACKOFF_SECONDS_MAX)
            log.warning("worker ended", instance=instance.instance_id, exit_code=code, again_in_seconds=pause)
            await asyncio.sleep(pause)

    async def _start_worker(self, instance: Instance) -> Process:
        identity = {"PIECEWORK_INSTANCE_ID": instance.instance_id, "PIECEWORK_HEALTH_PORT": "0"}
        log_file = self._logs / f"worker-{instance.instance_id}.log"
        # Killed with the fleet, as instances are with their power: nothing is left without a watcher.
        return await spawn(self._command(instance), log=log_file, environment={**os.environ, **identity})


async def main() -> None:
    configure_logs("fleet")
    logs = Path(os.environ.get(STACK_VARIABLE, ".piecework")) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    settings = FleetSettings()
    hide_environment()  # it is passed on to the workers, each of which hides it again
    async with connect_aws(settings) as aws:
        following = asyncio.create_task(Fleet(aws.autoscaling, logs, settings).run())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, following.cancel)
        await asyncio.wait([following])
    if not following.cancelled():
        following.result()


if __name__ == "__main__":
    asyncio.run(main())
