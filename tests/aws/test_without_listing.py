"""A worker that may not list its bucket: S3 tells it 403 of what is missing, and it says so at once, with the right."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.local.emulator import AWS_ENVIRONMENT, Emulator
from services.contract.layout import Layout
from services.contract.location import Location
from services.contract.task_error import TaskError
from services.platform.aws import Aws, connect_aws
from services.platform.settings import Settings
from services.platform.transfer import download
from services.worker.task.declared_inputs import DeclaredInputs
from tests.aws.gate.gate import Gate
from tests.aws.gated import gate_before, roles_of
from tests.conftest import OpenClients

SOURCE = "uploads/1/table.csv"


@pytest.fixture
async def bucket(ministack: Emulator, clients: OpenClients) -> str:
    name, aws = f"grid-{uuid4().hex[:8]}", await clients(ministack)
    await aws.s3.create_bucket(Bucket=name)
    await aws.s3.put_object(Bucket=name, Key=SOURCE, Body=b"1,2\n")
    return name


@pytest.fixture
async def gate(ministack: Emulator, bucket: str, tmp_path: Path) -> AsyncIterator[Gate]:
    """For a worker that has the access key of the tests' own process."""
    roles = {AWS_ENVIRONMENT["AWS_ACCESS_KEY_ID"]: roles_of(bucket)["worker"]}
    async with gate_before(ministack, roles, tmp_path) as gate:
        yield gate


@pytest.fixture
async def aws(gate: Gate) -> AsyncIterator[Aws]:
    async with connect_aws(Settings(aws_endpoint_url=gate.url)) as aws:
        yield aws


def forbid_listing(gate: Gate) -> None:
    for policies in gate.roles.values():
        policies.statements = [each for each in policies.statements if "s3:ListBucket" not in each.actions]


@pytest.mark.parametrize(("may_list", "error"), [(True, "input_missing"), (False, "input_forbidden")])
async def test_a_missing_object(gate: Gate, aws: Aws, bucket: str, tmp_path: Path, may_list: bool, error: str) -> None:
    if not may_list:
        forbid_listing(gate)

    with (tmp_path / "file").open("wb") as file, pytest.raises(TaskError) as raised:
        await download(aws.s3, Location(bucket, "interim/1/0/0-1/gone"), file)

    assert (raised.value.type, raised.value.retryable) == (error, False)
    assert ("s3:ListBucket" in raised.value.message) is not may_list


@pytest.mark.parametrize("may_list", [True, False])
async def test_an_input_that_no_task_has_used_yet(
    gate: Gate, aws: Aws, bucket: str, tmp_path: Path, may_list: bool
) -> None:
    """Its version is not pinned, and to find that out takes the right to list."""
    if not may_list:
        forbid_listing(gate)
    inputs = DeclaredInputs(aws.s3, Layout(bucket), tmp_path / "inputs", 1 << 20)
    declared = {"table": f"s3://{bucket}/{SOURCE}"}
    try:
        if may_list:
            async with inputs.holding(uuid4(), declared) as files:
                assert files["table"].read_bytes() == b"1,2\n"
            assert gate.refused == []
        else:
            with pytest.raises(TaskError, match="s3:ListBucket") as raised:
                async with inputs.holding(uuid4(), declared):
                    pass
            assert (raised.value.type, raised.value.retryable) == ("input_forbidden", False)
    finally:
        await inputs.close()
