"""What `up` and `pool` tell the grid of a pool's capacity, and what they wait for; AWS and the API are played."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import httpx
import pytest

from deploy.aws import commands
from deploy.aws.commands import Cloud, make_pool, up
from deploy.aws.stacks import DeployError

GRID = dict.fromkeys((*commands._POOL_NEEDS, "ApiUrl", "StatsUrl", "BootstrapKey", "Dashboard"), "x")
MADE = {"QueueUrl": "q", "DeadLetterUrl": "d", "GroupName": "trial-large", "Slots": "2"}


class Played:
    """A grid whose stack is there, with this pool's row and stack, or without."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, row: dict[str, int] | None, stack: dict[str, str] | None
    ) -> None:
        self.row = row
        self.capacity: dict[str, int] | None = None
        self.waited: list[int] = []
        self.cloud = Cloud(MagicMock(), None, "trial", lambda line: None, 0)
        self.stacks = {"trial": {"KmsKeyArn": ""}} | ({} if stack is None else {"trial-pool-default": stack})
        self.cloud.session.client.return_value.__aenter__ = AsyncMock(return_value=AsyncMock())
        monkeypatch.setattr(self.cloud.stacks, "find", self.find)
        monkeypatch.setattr(self.cloud.stacks, "outputs", AsyncMock(return_value=GRID))
        monkeypatch.setattr(
            self.cloud.stacks, "names", AsyncMock(return_value=[] if stack is None else ["trial-pool-default"])
        )
        self.make = AsyncMock(side_effect=lambda name, template, given: MADE if template == "pool" else GRID)
        monkeypatch.setattr(self.cloud.stacks, "make", self.make)
        monkeypatch.setattr(commands, "_largest_node", AsyncMock(return_value=None))
        monkeypatch.setattr(commands, "idle_dollars", AsyncMock(return_value=78.0))
        monkeypatch.setattr(commands, "await_nodes", self.wait)
        monkeypatch.setattr(commands.access, "api", self.api)

    async def find(self, name: str) -> Any:
        if name not in self.stacks:
            return None
        given = [{"ParameterKey": key, "ParameterValue": value} for key, value in self.stacks[name].items()]
        return {"StackStatus": "CREATE_COMPLETE", "Parameters": given}

    async def wait(self, *_: Any, least: int, **__: Any) -> None:
        self.waited.append(least)

    @asynccontextmanager
    async def api(self, *_: Any) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(base_url="http://g", transport=httpx.MockTransport(self.answer)) as client:
            yield client

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/capacity"):
            self.capacity = json.loads(request.content)
        elif request.method == "GET" and self.row is None:
            return httpx.Response(404, json={"detail": "no such pool"})
        return httpx.Response(200, json=self.row or {})

    @property
    def ceiling(self) -> str | None:
        """MaxNodes that the pool's stack is given."""
        given: dict[str, str] = self.make.await_args.args[2]
        return given.get("MaxNodes")


OLD = {"capacity_min": 2, "capacity_max": 8}


@pytest.mark.parametrize(
    ("least", "most", "capacity", "ceiling", "waited"),
    [
        (None, None, None, None, []),
        (None, 5, {"min": 2, "max": 5}, None, [2]),
        (None, 1, {"min": 1, "max": 1}, None, [1]),
        (20, None, {"min": 20, "max": 20}, None, [20]),
        (0, None, {"min": 0, "max": 8}, None, []),
        (0, 80, {"min": 0, "max": 80}, "80", []),
        (60, None, {"min": 60, "max": 60}, "60", [60]),
    ],
)
async def test_of_two_bounds_the_one_that_is_given_moves_the_other(
    monkeypatch: pytest.MonkeyPatch,
    least: int | None,
    most: int | None,
    capacity: dict[str, int] | None,
    ceiling: str | None,
    waited: list[int],
) -> None:
    """The stack's own ceiling is raised if that takes it, which is 50 here."""
    played = Played(monkeypatch, OLD, {"MaxNodes": "50"})

    await make_pool(played.cloud, "default", {}, least, most)

    assert (played.capacity, played.ceiling, played.waited) == (capacity, ceiling, waited)


async def test_bounds_that_contradict_each_other_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(monkeypatch, OLD, {})
    with pytest.raises(DeployError, match="--min 9 is more than --max 3"):
        await make_pool(played.cloud, "default", {}, 9, 3)
    assert not played.make.called


async def test_a_new_pool_may_have_ten_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(monkeypatch, None, None)
    await make_pool(played.cloud, "large", {}, None, None)
    assert (played.capacity, played.waited) == ({"min": 0, "max": 10}, [])


@pytest.mark.parametrize(
    ("row", "stack", "made"),
    [(None, None, True), (None, {}, True), (OLD, {}, False)],
    ids=["new", "not registered when the command ended", "registered"],
)
async def test_up_makes_the_first_pool_until_it_is_registered(
    monkeypatch: pytest.MonkeyPatch, row: dict[str, int] | None, stack: dict[str, str] | None, made: bool
) -> None:
    played = Played(monkeypatch, row, stack)

    await up(played.cloud, {}, {"VpcId": "vpc-1"}, {}, 1, 4)

    assert (played.capacity == {"min": 1, "max": 4}, played.waited == [1]) == (made, made)


async def test_a_grid_keeps_the_key_that_its_database_was_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """CloudFormation would put an empty database in its place."""
    played = Played(monkeypatch, OLD, {})
    with pytest.raises(DeployError, match="was made with keys of AWS, which its database keeps"):
        await up(played.cloud, {}, {"VpcId": "vpc-1", "KmsKeyArn": "arn:aws:kms:r:1:key/k"}, {}, 0, 4)
    assert not played.make.called
