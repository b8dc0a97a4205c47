"""Tasks get the credentials of their pool's own role, and none without one; the worker may assume no other role."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from deploy.local.emulator import AWS_ENVIRONMENT, Emulator
from services.platform.settings import WorkerSettings
from services.worker.task.credentials import RoleRefused, task_credentials
from tests.aws.conftest import client_of
from tests.aws.gate.gate import Gate
from tests.aws.gated import gate_before, roles_of
from tests.emulators import NAMES
from tests.integration.worker.conftest import InProcessGrid, code, grid

__all__ = ["code", "grid"]

TRUST = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}

# A task as users write it: with boto3, which finds the credentials by itself.
WHO_AM_I = """
import boto3, botocore.exceptions, json, os, sys
session = boto3.Session()
try:
    found = boto3.client("sts", endpoint_url=sys.argv[2]).get_caller_identity()["Arn"]
except botocore.exceptions.NoCredentialsError as error:
    found = str(error)
method = session.get_credentials() and session.get_credentials().method
marks = ("KEY", "TOKEN", "CREDENTIAL", "ROLE", "PROFILE")
names = sorted(name for name in os.environ if name.startswith("AWS_") and any(mark in name for mark in marks))
json.dump({"arn": found, "method": method, "variables": names}, open(sys.argv[1], "w"))
"""


@pytest.fixture(params=NAMES)
def emulator(request: pytest.FixtureRequest) -> Emulator:
    found: Emulator = request.getfixturevalue(f"whole_{request.param}")
    return found


@pytest.fixture
def role(emulator: Emulator) -> str:
    """The ARN of a role that lets itself be assumed."""
    policy = json.dumps({"Version": "2012-10-17", "Statement": [TRUST]})
    made = client_of(emulator)("iam").create_role(RoleName=f"tasks-{uuid4().hex}", AssumeRolePolicyDocument=policy)
    return str(made["Role"]["Arn"])


async def who_am_i(grid: InProcessGrid, emulator: Emulator, directory: Path) -> Any:
    program = directory / "who_am_i.py"
    program.write_text(WHO_AM_I)
    grid.settings = grid.settings.model_copy(update={"readable": str(directory)})
    spec = {
        "command": ["python", str(program), "{output}", emulator.url],
        "output": "who.json",
        "environment": {"AWS_EC2_METADATA_DISABLED": "true"},
    }
    (task,) = await grid.run(await grid.submit(spec, [{"type": "item", "value": 1}]))
    assert task["state"] == "succeeded", task["error"]
    return json.loads(await grid.get(task["output"]["uri"]))


async def test_a_task_is_its_pools_role(grid: InProcessGrid, emulator: Emulator, role: str, tmp_path: Path) -> None:
    grid.settings = grid.settings.model_copy(update={"task_role": role})

    found = await who_am_i(grid, emulator, tmp_path / "code")

    assert found["method"] == "container-role"
    assert f":assumed-role/{role.rpartition('/')[2]}/piecework-default-" in found["arn"]
    assert found["variables"] == ["AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_CREDENTIALS_FULL_URI"]


async def test_without_a_role_a_task_has_no_credentials(
    grid: InProcessGrid, emulator: Emulator, tmp_path: Path
) -> None:
    found = await who_am_i(grid, emulator, tmp_path / "code")

    assert (found["arn"], found["method"]) == ("Unable to locate credentials", None)
    assert found["variables"] == []


@pytest.fixture
async def gate(emulator: Emulator, role: str, tmp_path: Path) -> AsyncIterator[Gate]:
    """For a worker of a pool with this role, which has the access key of the tests' own process."""
    roles = {AWS_ENVIRONMENT["AWS_ACCESS_KEY_ID"]: roles_of("grid", task_role=role)["worker"]}
    async with gate_before(emulator, roles, tmp_path) as gate:
        yield gate


async def test_a_worker_may_assume_its_tasks_role_and_no_other(gate: Gate, role: str) -> None:
    settings = WorkerSettings(aws_endpoint_url=gate.url, task_role=role)
    async with task_credentials(settings) as credentials:
        assert (await credentials.current())["AccessKeyId"]
    assert (gate.refused, gate.unknown) == ([], [])

    other = role.replace("tasks-", "admin-")
    with pytest.raises(RoleRefused, match=f"may not assume the role {other}"):
        async with task_credentials(settings.model_copy(update={"task_role": other})):
            pass
    assert [refusal[1:] for refusal in gate.refused] == [("AssumeRole", "sts:AssumeRole", other)]
