"""What a service's key can't do, whoever holds it: tried with boto3, as someone would who has stolen it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from deploy.local.emulator import Emulator
from services.platform.aws import Aws
from tests.aws.gate.gate import Gate
from tests.aws.gated import POOL, gate_before, roles_of
from tests.conftest import OpenClients
from tests.groups import create_group

ClientOf = Callable[[str, str], Any]  # of a service, in a role
Try = Callable[[Any, dict[str, str]], Any]


@pytest.fixture(scope="module")
def names() -> dict[str, str]:
    """What a grid has, and what another one in the same account has."""
    grid, other = f"grid-{uuid4().hex[:8]}", f"other-{uuid4().hex[:8]}"
    return {"bucket": grid, "other_bucket": other, "group": f"{grid}-{POOL}", "other_group": f"{other}-{POOL}"}


@pytest.fixture(scope="module")
async def gate(
    ministack: Emulator, clients: OpenClients, names: dict[str, str], tmp_path_factory: Any
) -> AsyncIterator[Gate]:
    aws = await clients(ministack)
    for bucket in (names["bucket"], names["other_bucket"]):
        await aws.s3.create_bucket(Bucket=bucket)
        for key in ("jobs/1/results/a", "packages/a.zip"):
            await aws.s3.put_object(Bucket=bucket, Key=key, Body=b"a")
        for queue in (f"{bucket}-{POOL}", f"{bucket}-{POOL}-dead-letter", f"{bucket}-gpu"):
            await aws.sqs.create_queue(QueueName=queue)
        await _make_group(aws, bucket)
    async with gate_before(ministack, roles_of(names["bucket"]), tmp_path_factory.mktemp("gate")) as gate:
        yield gate


async def _make_group(aws: Aws, grid: str) -> None:
    for pool, tags in ((POOL, {"grid": grid, "pool": POOL}), ("control", {"grid": grid})):
        tagged = {f"piecework:{key}": tag for key, tag in tags.items()}
        await create_group(aws, f"{grid}-{pool}", maximum=5, tags=tagged)


@pytest.fixture(scope="module")
def client_of(gate: Gate) -> ClientOf:
    def client(service: str, role: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=gate.url,
            region_name="us-east-1",
            aws_access_key_id=role,
            aws_secret_access_key="test",
            config=Config(
                retries={"max_attempts": 1},
                s3={"addressing_style": "path"},
                signature_version="s3v4" if service == "s3" else "v4",
            ),
        )

    return client


def queue(name: str) -> str:
    return f"http://sqs/000000000000/{name}"


FORBIDDEN: dict[str, tuple[str, str, Try]] = {
    "a worker reads another bucket": (
        "worker",
        "s3",
        lambda s3, of: s3.get_object(Bucket=of["other_bucket"], Key="jobs/1/results/a"),
    ),
    "a worker lists another bucket": ("worker", "s3", lambda s3, of: s3.list_objects_v2(Bucket=of["other_bucket"])),
    "a worker lists all buckets": ("worker", "s3", lambda s3, of: s3.list_buckets()),
    "a worker writes code": (
        "worker",
        "s3",
        lambda s3, of: s3.put_object(Bucket=of["bucket"], Key="packages/a.zip", Body=b"evil"),
    ),
    "a worker writes code in parts": (
        "worker",
        "s3",
        lambda s3, of: s3.create_multipart_upload(Bucket=of["bucket"], Key="packages/a.zip"),
    ),
    "a worker copies from another bucket": (
        "worker",
        "s3",
        lambda s3, of: s3.copy_object(
            Bucket=of["bucket"], Key="jobs/2", CopySource={"Bucket": of["other_bucket"], "Key": "packages/a.zip"}
        ),
    ),
    "a worker copies out of the grid": (
        "worker",
        "s3",
        lambda s3, of: s3.copy_object(
            Bucket=of["other_bucket"], Key="jobs/2", CopySource={"Bucket": of["bucket"], "Key": "packages/a.zip"}
        ),
    ),
    "a worker deletes an object": (
        "worker",
        "s3",
        lambda s3, of: s3.delete_object(Bucket=of["bucket"], Key="jobs/1/results/a"),
    ),
    "a worker changes the bucket's policy": (
        "worker",
        "s3",
        lambda s3, of: s3.put_bucket_policy(Bucket=of["bucket"], Policy="{}"),
    ),
    "a worker takes another pool's tasks": (
        "worker",
        "sqs",
        lambda sqs, of: sqs.receive_message(QueueUrl=queue(f"{of['bucket']}-gpu")),
    ),
    "a worker deletes another pool's tasks": (
        "worker",
        "sqs",
        lambda sqs, of: sqs.delete_message_batch(
            QueueUrl=queue(f"{of['bucket']}-gpu"), Entries=[{"Id": "1", "ReceiptHandle": "a"}]
        ),
    ),
    "a worker sends tasks": (
        "worker",
        "sqs",
        lambda sqs, of: sqs.send_message_batch(QueueUrl=queue(of["group"]), Entries=[{"Id": "1", "MessageBody": "a"}]),
    ),
    "a worker purges its queue": ("worker", "sqs", lambda sqs, of: sqs.purge_queue(QueueUrl=queue(of["group"]))),
    "a worker adds nodes": (
        "worker",
        "autoscaling",
        lambda groups, of: groups.set_desired_capacity(AutoScalingGroupName=of["group"], DesiredCapacity=5),
    ),
    "the API reads another bucket": (
        "api",
        "s3",
        lambda s3, of: s3.head_object(Bucket=of["other_bucket"], Key="packages/a.zip"),
    ),
    "the API writes results": (
        "api",
        "s3",
        lambda s3, of: s3.put_object(Bucket=of["bucket"], Key="jobs/1/results/a", Body=b""),
    ),
    "the API makes a queue": ("api", "sqs", lambda sqs, of: sqs.create_queue(QueueName=f"{of['bucket']}-mine")),
    "the API sends tasks": (
        "api",
        "sqs",
        lambda sqs, of: sqs.send_message(QueueUrl=queue(of["group"]), MessageBody="a"),
    ),
    "the API changes a group": (
        "api",
        "autoscaling",
        lambda groups, of: groups.update_auto_scaling_group(AutoScalingGroupName=of["group"], MaxSize=1000),
    ),
    "the API grows another grid": (
        "api",
        "autoscaling",
        lambda groups, of: groups.set_desired_capacity(AutoScalingGroupName=of["other_group"], DesiredCapacity=5),
    ),
    "the scheduler grows the control nodes": (
        "scheduler",
        "autoscaling",
        lambda groups, of: groups.set_desired_capacity(
            AutoScalingGroupName=f"{of['bucket']}-control", DesiredCapacity=0
        ),
    ),
    "the scheduler takes tasks": (
        "scheduler",
        "sqs",
        lambda sqs, of: sqs.receive_message(QueueUrl=queue(of["group"])),
    ),
    "the scheduler writes code": (
        "scheduler",
        "s3",
        lambda s3, of: s3.put_object(Bucket=of["bucket"], Key="packages/a.zip", Body=b"evil"),
    ),
    "the scheduler deletes the bucket": ("scheduler", "s3", lambda s3, of: s3.delete_bucket(Bucket=of["bucket"])),
    "statistics read an object": (
        "stats",
        "s3",
        lambda s3, of: s3.get_object(Bucket=of["bucket"], Key="jobs/1/results/a"),
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
async def test_a_key_is_refused_what_its_service_does_not_do(
    gate: Gate, client_of: ClientOf, names: dict[str, str], what: str
) -> None:
    role, service, call = FORBIDDEN[what]

    def attempt() -> None:
        call(client_of(service, role), names)

    with pytest.raises(ClientError) as raised:
        await asyncio.to_thread(attempt)

    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403, raised.value
    assert raised.value.response["Error"]["Code"] in ("AccessDenied", "AccessDeniedException", "403")
    assert gate.refused[-1][0] == role
    assert gate.unknown == []


async def test_keys_may_do_what_their_services_do(gate: Gate, client_of: ClientOf, names: dict[str, str]) -> None:
    """So that the refusals above are not those of a gate that is closed to all."""

    def attempt() -> bytes:
        s3, sqs = client_of("s3", "worker"), client_of("sqs", "worker")
        s3.put_object(Bucket=names["bucket"], Key="jobs/1/0/0-1/a", Body=b"new")
        sqs.receive_message(QueueUrl=queue(names["group"]), WaitTimeSeconds=0)
        groups = client_of("autoscaling", "api")
        groups.set_desired_capacity(AutoScalingGroupName=names["group"], DesiredCapacity=0)
        return bytes(s3.get_object(Bucket=names["bucket"], Key="jobs/1/0/0-1/a")["Body"].read())

    refused = len(gate.refused)
    assert await asyncio.to_thread(attempt) == b"new"
    assert len(gate.refused) == refused


async def test_deletions_are_refused_one_by_one(gate: Gate, client_of: ClientOf, names: dict[str, str]) -> None:
    def attempt() -> Any:
        keys = [{"Key": "jobs/1/results/a"}, {"Key": "packages/a.zip"}]
        return client_of("s3", "worker").delete_objects(Bucket=names["bucket"], Delete={"Objects": keys})

    answer = await asyncio.to_thread(attempt)
    assert [(error["Key"], error["Code"]) for error in answer["Errors"]] == [
        ("jobs/1/results/a", "AccessDenied"),
        ("packages/a.zip", "AccessDenied"),
    ]


@pytest.mark.parametrize(("key", "status"), [("uploads/1/a", 200), ("jobs/1/results/a", 403)])
async def test_a_link_has_the_rights_of_who_made_it(
    gate: Gate, client_of: ClientOf, names: dict[str, str], key: str, status: int
) -> None:
    s3 = client_of("s3", "api")
    link = s3.generate_presigned_url("put_object", Params={"Bucket": names["bucket"], "Key": key})
    form = s3.generate_presigned_post(names["bucket"], f"{key}/${{filename}}")
    async with httpx.AsyncClient() as client:
        put = await client.put(link, content=b"new")
        posted = await client.post(form["url"], data=form["fields"], files={"file": ("b", b"new")})
    assert put.status_code == status, put.text
    assert posted.status_code == (204 if status == 200 else 403)


async def test_who_may_not_list_is_not_told_what_is_missing(
    gate: Gate, client_of: ClientOf, names: dict[str, str], ministack: Emulator, tmp_path: Path
) -> None:
    def codes(url: str) -> list[str]:
        s3 = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="worker",
            aws_secret_access_key="test",
            config=Config(s3={"addressing_style": "path"}),
        )
        found = []
        for call in (s3.get_object, s3.head_object):
            with pytest.raises(ClientError) as raised:
                call(Bucket=names["bucket"], Key="jobs/none")
            found.append(raised.value.response["Error"]["Code"])
        return found

    assert await asyncio.to_thread(codes, gate.url) == ["NoSuchKey", "404"]
    roles = roles_of(names["bucket"])
    roles["worker"].statements = [each for each in roles["worker"].statements if each.sid != "SeeWhatIsMissing"]
    async with gate_before(ministack, roles, tmp_path) as blind:
        assert await asyncio.to_thread(codes, blind.url) == ["AccessDenied", "403"]


async def test_what_the_gate_does_not_know_it_does_not_let_through(
    gate: Gate, client_of: ClientOf, names: dict[str, str]
) -> None:
    def attempt() -> None:
        client_of("s3", "worker").put_object(Bucket=names["bucket"], Key="jobs/a", Body=b"", ACL="public-read")

    before = len(gate.unknown)
    with pytest.raises(ClientError):
        await asyncio.to_thread(attempt)
    assert "x-amz-acl" in gate.unknown[before]
    gate.unknown.clear()
