"""The wait for nodes ends when each instance of the group has an active worker, and else names those that have none."""

from typing import Any

import httpx
import pytest

from deploy.aws import nodes
from deploy.aws.nodes import await_nodes
from deploy.aws.stacks import DeployError


class PlayedGrid:
    """A group and the API's list of active workers, two a page; each pause changes them by one step."""

    def __init__(self, wanted: int, *steps: tuple[str, str]) -> None:
        self.wanted = wanted
        self.steps = iter(steps)
        self.pauses = 0
        self.step(next(self.steps))

    def step(self, now: tuple[str, str]) -> None:
        self.instances, self.working = now[0].split(), now[1].split()

    async def describe_auto_scaling_groups(self, **_: Any) -> dict[str, Any]:
        states = [each.partition(":") for each in self.instances]
        listed = [{"InstanceId": name, "LifecycleState": state or "InService"} for name, _, state in states]
        return {"AutoScalingGroups": [{"DesiredCapacity": self.wanted, "Instances": listed}]}

    async def describe_scaling_activities(self, **_: Any) -> dict[str, Any]:
        return {"Activities": [{"StatusCode": "Failed", "StatusMessage": "no Spot capacity"}]}

    def answer(self, request: httpx.Request) -> httpx.Response:
        assert (request.url.params["pool"], request.url.params["state"]) == ("large", "active")
        start = int(request.url.params.get("cursor", "0"))
        page = [{"instance_id": name} for name in self.working[start : start + 2]]
        more = str(start + 2) if start + 2 < len(self.working) else None
        return httpx.Response(200, json={"items": page, "next_cursor": more})

    async def pause(self, _: float) -> None:
        self.pauses += 1
        if (now := next(self.steps, None)) is not None:
            self.step(now)


async def wait(grid: PlayedGrid, monkeypatch: pytest.MonkeyPatch, seconds: float = 60, least: int = 0) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr("deploy.aws.nodes.asyncio.sleep", grid.pause)
    async with httpx.AsyncClient(base_url="http://grid", transport=httpx.MockTransport(grid.answer)) as api:
        await await_nodes(
            grid, api, "large", "g", least=least, patience_seconds=seconds, pause_seconds=0, say=said.append
        )
    return said


async def test_it_ends_when_all_instances_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are being ended count no more, and workers of other machines not at all."""
    grid = PlayedGrid(
        3,
        ("old:Terminating:Wait a", "laptop"),
        ("a b c", "a laptop"),
        ("a b c", "a b"),
        ("a b c", "laptop a b c"),
    )

    assert await wait(grid, monkeypatch) == [
        "large: 0 of 3 nodes work, waits for a",
        "large: 1 of 3 nodes work, waits for b, c",
        "large: 2 of 3 nodes work, waits for c",
    ]
    assert grid.pauses == 3


async def test_it_waits_for_the_least_that_a_pool_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The group may not have been told yet."""
    grid = PlayedGrid(0, ("", ""), ("a", "a"), ("a b", "a b"))

    assert await wait(grid, monkeypatch, least=2) == ["large: 0 of 2 nodes work", "large: 1 of 2 nodes work"]


async def test_an_empty_pool_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await wait(PlayedGrid(0, ("", "")), monkeypatch) == []


async def test_what_does_not_work_in_time_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 700.0, 901.0])
    monkeypatch.setattr(nodes, "_now", lambda: next(clock))
    grid = PlayedGrid(3, ("a b c", "a"), ("a c d", "a d"), ("c d", "d"))

    with pytest.raises(DeployError) as raised:
        await wait(grid, monkeypatch, seconds=900)

    assert str(raised.value) == (
        "after 15 minutes, 1 of 3 nodes of large work; without a working worker: c; gone without ever having one: b; "
        "AWS says: no Spot capacity. Their boot is in the log group of the pool (/piecework/…/large), in INSTANCE/boot"
    )
