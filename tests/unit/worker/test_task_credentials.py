"""What answers tasks that ask for credentials: an SDK's own client gets them, renewed in time, and nobody else does."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from botocore.credentials import ContainerProvider
from botocore.exceptions import ClientError

from services.platform.settings import WorkerSettings, read_settings
from services.worker.task import containers
from services.worker.task import credentials as module
from services.worker.task.credentials import LOOPBACK, RoleRefused, TaskCredentials, task_credentials
from services.worker.task.engine import EngineUnusable

ROLE = "arn:aws:iam::123456789012:role/claims-tasks"
VARIABLES = {"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN"}


class PlayedSts:
    """Gives credentials with a number, for an hour unless it is told otherwise."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.lasts = timedelta(hours=1)
        self.fails: Exception | None = None

    async def assume_role(self, **arguments: Any) -> dict[str, Any]:
        if self.fails is not None:
            raise self.fails
        self.asked.append(arguments)
        names = {"AccessKeyId": "ASIA", "SecretAccessKey": "secret", "SessionToken": "session"}
        numbered = {name: f"{value}{len(self.asked)}" for name, value in names.items()}
        return {"Credentials": {**numbered, "Expiration": datetime.now(UTC) + self.lasts}}


@pytest.fixture
def sts(monkeypatch: pytest.MonkeyPatch) -> PlayedSts:
    played = PlayedSts()

    @asynccontextmanager
    async def open_client(service: str, *_: Any) -> AsyncIterator[PlayedSts]:
        assert service == "sts"
        yield played

    monkeypatch.setattr(module, "open_client", open_client)
    return played


def settings(role: str = ROLE) -> WorkerSettings:
    return WorkerSettings(task_role=role, pool="claims large")


@pytest.fixture
async def served(sts: PlayedSts) -> AsyncIterator[TaskCredentials]:
    async with task_credentials(settings()) as credentials:
        yield credentials


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "AssumeRole")


async def keys(variables: dict[str, str]) -> Any:
    """What botocore, which boto3 uses, makes of a task's variables."""
    found = await asyncio.to_thread(ContainerProvider(environ=variables).load)
    return await asyncio.to_thread(found.get_frozen_credentials)


async def test_an_sdk_gets_the_credentials_of_the_role(served: TaskCredentials, sts: PlayedSts) -> None:
    variables = await served.variables(LOOPBACK)

    assert variables.keys() == VARIABLES
    assert tuple(await keys(variables))[:3] == ("ASIA1", "secret1", "session1")
    [asked] = sts.asked
    assert (asked["RoleArn"], asked["DurationSeconds"]) == (ROLE, 3600)
    assert asked["RoleSessionName"].startswith("piecework-claims-large-") and len(asked["RoleSessionName"]) <= 64


async def test_who_has_not_the_token_gets_nothing(served: TaskCredentials) -> None:
    variables = await served.variables(LOOPBACK)
    async with httpx.AsyncClient() as client:
        for token in ({}, {"Authorization": "guessed"}):
            answer = await client.get(variables["AWS_CONTAINER_CREDENTIALS_FULL_URI"], headers=token)
            assert (answer.status_code, answer.json()["code"]) == (401, "Unauthorized")


async def test_credentials_are_kept_and_renewed_when_half_of_their_time_is_over(sts: PlayedSts) -> None:
    credentials = TaskCredentials(settings())
    sts.lasts = timedelta(minutes=31)
    assert (await credentials.current())["AccessKeyId"] == "ASIA1"
    sts.lasts = timedelta(minutes=29)
    assert (await credentials.current())["AccessKeyId"] == "ASIA1"

    credentials = TaskCredentials(settings())
    asked = [(await credentials.current())["AccessKeyId"] for _ in range(2)]
    assert asked == ["ASIA2", "ASIA3"]
    sts.lasts = timedelta(hours=1)
    together = await asyncio.gather(*(credentials.current() for _ in range(5)))
    assert {each["AccessKeyId"] for each in together} == {"ASIA4"}, "once for all who ask at the same time"


async def test_while_sts_is_away_the_old_ones_are_good_until_their_end(served: TaskCredentials, sts: PlayedSts) -> None:
    variables = await served.variables(LOOPBACK)
    served._kept = served._kept and served._kept | {"Expiration": datetime.now(UTC) + timedelta(seconds=100)}
    sts.fails = TimeoutError("STS is away")
    assert (await keys(variables)).access_key == "ASIA1"

    served._kept = served._kept and served._kept | {"Expiration": datetime.now(UTC) - timedelta(seconds=1)}
    headers = {"Authorization": variables["AWS_CONTAINER_AUTHORIZATION_TOKEN"]}
    async with httpx.AsyncClient(headers=headers) as client:
        answer = await client.get(variables["AWS_CONTAINER_CREDENTIALS_FULL_URI"])
    assert answer.status_code == 503
    assert answer.json()["message"] == f"the worker can't assume {ROLE}: STS is away"

    sts.fails = None
    assert (await keys(variables)).access_key == "ASIA2"


async def test_a_worker_that_may_not_assume_the_role_says_what_to_allow(sts: PlayedSts) -> None:
    sts.fails = refusal("AccessDenied")
    with pytest.raises(RoleRefused, match=f"may not assume the role {ROLE} .*sts:AssumeRole"):
        async with task_credentials(settings()):
            pass


@pytest.mark.parametrize("fault", [refusal("Throttling"), TimeoutError()], ids=["busy", "away"])
async def test_a_worker_starts_while_sts_is_away(sts: PlayedSts, fault: Exception) -> None:
    sts.fails = fault
    async with task_credentials(settings()) as credentials:
        variables = await credentials.variables(LOOPBACK)
        sts.fails = None
        assert (await keys(variables)).access_key == "ASIA1"


async def test_without_a_role_there_are_none(sts: PlayedSts) -> None:
    async with task_credentials(settings("")) as credentials:
        assert await credentials.variables(LOOPBACK) == {}
    assert sts.asked == []


async def test_an_address_that_the_machine_has_not_is_an_error(served: TaskCredentials) -> None:
    with pytest.raises(OSError, match="assign requested address"):
        await served.variables("192.0.2.1")


async def test_an_engine_without_the_address_for_containers_is_unusable(
    served: TaskCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "FOR_CONTAINERS", "192.0.2.1")
    with pytest.raises(EngineUnusable, match=r"run `ip address add 192\.0\.2\.1/32 dev lo` on the machine"):
        await containers._credentials(served)


@pytest.mark.parametrize(
    ("role", "environment", "says"),
    [
        ("claims-tasks", "", "PIECEWORK_TASK_ROLE: .*it is 'claims-tasks'"),
        (ROLE, "JAVA_HOME,AWS_*", "PIECEWORK_TASK_ENVIRONMENT: .*AWS_ACCESS_KEY_ID.* leave them out"),
    ],
)
def test_what_contradicts_the_role_is_refused(
    capsys: pytest.CaptureFixture[str], role: str, environment: str, says: str
) -> None:
    with pytest.raises(SystemExit):
        read_settings(WorkerSettings, task_role=role, task_environment=environment)
    assert re.search(says, capsys.readouterr().err)
