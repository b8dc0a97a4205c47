"""Waits until a pool's nodes work: each instance of its group has a worker that takes tasks."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from deploy.aws import access
from deploy.aws.stacks import DeployError, Say

_ENDING = ("Terminating", "Terminated", "Detaching", "Detached")  # states of an instance that counts no more


@dataclass(frozen=True, slots=True)
class _Nodes:
    wanted: int
    instances: frozenset[str]
    working: frozenset[str]  # those of them that have an active worker
    complaint: str  # why the group has fewer instances than it wants, if AWS says so

    @property
    def lacking(self) -> frozenset[str]:
        return self.instances - self.working

    def __str__(self) -> str:
        waits = f", waits for {', '.join(sorted(self.lacking))}" if self.lacking else ""
        return f"{len(self.working)} of {self.wanted} nodes work{waits}"


async def await_nodes(
    autoscaling: Any,
    api: httpx.AsyncClient,
    pool: str,
    group: str,
    *,
    least: int = 0,
    patience_seconds: float,
    pause_seconds: float,
    say: Say,
) -> None:
    """Until the group has as many instances as it wants, or `least`, and all of them work.

    Raises DeployError after `patience_seconds`; it names the instances that never worked, those that are gone as well.
    """
    ends_at, told = _now() + patience_seconds, ""
    seen: set[str] = set()
    worked: set[str] = set()
    while True:
        found = await _look(autoscaling, api, pool, group, least)
        seen |= found.instances
        worked |= found.working
        if not found.lacking and len(found.working) >= found.wanted:
            return
        if str(found) != told:
            told = str(found)
            say(f"{pool}: {told}")
        if _now() >= ends_at:
            raise DeployError(_failure(pool, patience_seconds, found, seen - worked - found.instances))
        await asyncio.sleep(pause_seconds)


def _now() -> float:
    return time.monotonic()


def _failure(pool: str, patience_seconds: float, found: _Nodes, gone: set[str]) -> str:
    parts = [f"after {patience_seconds / 60:g} minutes, {len(found.working)} of {found.wanted} nodes of {pool} work"]
    if found.lacking:
        parts.append(f"without a working worker: {', '.join(sorted(found.lacking))}")
    if gone:
        parts.append(f"gone without ever having one: {', '.join(sorted(gone))}")
    if len(found.instances) < found.wanted and found.complaint:
        parts.append(f"AWS says: {found.complaint}")
    return "; ".join(parts) + f". Their boot is in the log group of the pool (/piecework/…/{pool}), in INSTANCE/boot"


async def _look(autoscaling: Any, api: httpx.AsyncClient, pool: str, group: str, least: int) -> _Nodes:
    [described] = (await autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group]))["AutoScalingGroups"]
    instances = frozenset(
        found["InstanceId"] for found in described["Instances"] if not found["LifecycleState"].startswith(_ENDING)
    )
    active = {worker["instance_id"] async for worker in _active_workers(api, pool)}
    wanted = max(described["DesiredCapacity"], least)
    complaint = await _complaint(autoscaling, group) if len(instances) < wanted else ""
    return _Nodes(wanted, instances, instances & active, complaint)


async def _active_workers(api: httpx.AsyncClient, pool: str) -> AsyncIterator[dict[str, Any]]:
    cursor = ""
    while True:
        path = f"/v1/workers?pool={pool}&state=active&limit=500" + (f"&cursor={cursor}" if cursor else "")
        page = await access.call(api, "GET", path)
        for worker in page["items"]:
            yield worker
        cursor = page["next_cursor"]
        if not cursor:
            return


async def _complaint(autoscaling: Any, group: str) -> str:
    """What the newest activity of the group says, if it has failed: no Spot capacity, a quota, …"""
    answer = await autoscaling.describe_scaling_activities(AutoScalingGroupName=group, MaxRecords=1)
    failed = [each for each in answer["Activities"] if each["StatusCode"] == "Failed"]
    return str(failed[0].get("StatusMessage", "")) if failed else ""
