"""`python -m deploy.aws` as an operator runs it, against emulators; the grid's API is a real one."""

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, MagicMock
from uuid import UUID, uuid4

import aioboto3
import httpx
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from deploy.aws.__main__ import _refusal
from deploy.aws.commands import Cloud, _unprotect_database, architecture, roll
from deploy.aws.largest import largest_node
from deploy.aws.stacks import DeployError, Stacks
from deploy.local.emulator import AWS_ENVIRONMENT, Emulator
from deploy.local.process import ROOT
from services.engine.pools import register_pool
from services.engine.workers import register_worker, stop_worker
from services.platform.aws import Aws
from services.platform.database import connect_database, new_id
from services.platform.version import VERSION
from tests.aws.conftest import client_of
from tests.conftest import OpenClients, free_port
from tests.groups import create_group

IMAGE = "000000000000.dkr.ecr.us-east-1.amazonaws.com/piecework:0.2.0"
KEY = "key-of-the-tests"
CREDENTIALS = {
    "aws_access_key_id": AWS_ENVIRONMENT["AWS_ACCESS_KEY_ID"],
    "aws_secret_access_key": AWS_ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
    "region_name": AWS_ENVIRONMENT["AWS_DEFAULT_REGION"],
}


@pytest.fixture
async def api_url(own_database_url: str, whole_ministack: Emulator) -> AsyncIterator[str]:
    client_of(whole_ministack)("s3").create_bucket(Bucket="of-the-api")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "services.api.main:app", "--port", str(port), "--log-level", "warning"),
        cwd=ROOT,
        env=os.environ
        | {
            "PIECEWORK_DATABASE_URL": own_database_url,
            "PIECEWORK_AWS_ENDPOINT_URL": whole_ministack.url,
            "PIECEWORK_BUCKET": "of-the-api",
            "PIECEWORK_BOOTSTRAP_API_KEY": KEY,
        },
    )
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url) as client, asyncio.timeout(60):
        while True:
            with suppress(httpx.HTTPError):
                if (await client.get("/readyz")).status_code == 200:
                    break
            await asyncio.sleep(0.1)
    yield url
    process.terminate()
    await process.wait()


def deploy(url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.aws", *arguments],
        cwd=ROOT,
        env=os.environ | {"AWS_ENDPOINT_URL": url, "PIECEWORK_DEPLOY_PAUSE_SECONDS": "0.1"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def network(emulator: Emulator) -> list[str]:
    """Options that name the account's own network: ministack makes no NAT gateway."""
    ec2 = client_of(emulator)("ec2")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    found = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    subnets = ",".join(subnet["SubnetId"] for subnet in found[:2])
    names = ("NodeSubnets", "DatabaseSubnets", "PublicSubnets")
    return [f"--set=VpcId={vpc}", *(f"--set={name}={subnets}" for name in names)]


def stacks(emulator: Emulator) -> set[str]:
    found = client_of(emulator)("cloudformation").describe_stacks()["Stacks"]
    return {stack["StackName"] for stack in found if stack["StackStatus"] != "DELETE_COMPLETE"}


def pool_row(url: str, name: str) -> Any:
    return httpx.get(f"{url}/v1/pools/{name}", headers={"Authorization": f"Bearer {KEY}"}).json()


@pytest.mark.timeout(500)
async def test_a_grid_comes_up_changes_gets_a_pool_and_goes_but_for_its_data(
    whole_ministack: Emulator, api_url: str
) -> None:
    url, client = whole_ministack.url, client_of(whole_ministack)
    client("ssm").put_parameter(Name="/test/ami", Value="ami-0123456789abcdef0", Type="String", Overwrite=True)
    reached = {"PIECEWORK_API_URL": api_url, "PIECEWORK_API_KEY": KEY}
    place = [*network(whole_ministack), "--set=AmiParameter=/test/ami"]

    up = deploy(url, "--grid", "trial", "up", "--image", IMAGE, "--max", "7", *place, **reached)

    assert up.returncode == 0, up.stdout + up.stderr
    assert stacks(whole_ministack) >= {"trial", "trial-pool-default"}
    assert "trial: CREATE_COMPLETE" in up.stdout and "First key" in up.stdout and "Bucket" in up.stdout
    row = pool_row(api_url, "default")
    assert (row["group_name"], row["capacity_max"], row["slots"]) == ("trial-default", 7, 2)

    again = deploy(url, "--grid", "trial", "up", **reached)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "default" not in again.stdout.split("API")[0].replace("trial-pool-default", ""), "the pool is there already"

    large = deploy(
        *(
            url,
            "--grid",
            "trial",
            "pool",
            "large",
            "--types",
            "c7i.4xlarge,c6i.4xlarge,m5.large",
            "--max",
            "250",
            "--slots",
            "16",
        ),
        *("--on-demand", "20", "--set=AmiParameter=/test/ami", "--price", "0.7"),
        **reached,
    )
    assert large.returncode == 0, large.stdout + large.stderr
    repeated = deploy(url, "--grid", "trial", "pool", "large", "--spot-price", "0.25", "--set=RootGb=60", **reached)
    assert repeated.returncode == 0, repeated.stdout + repeated.stderr
    shown = pool_row(api_url, "large")
    assert (shown["price_per_hour"], shown["spot_price_per_hour"]) == (0.7, 0.25), "what is not given stays"
    assert shown["largest_node"]["cpus"] >= 2 and shown["largest_node"]["disk"] == 30 << 30, "before there is a node"
    assert (pool_row(api_url, "large")["slots"], pool_row(api_url, "large")["capacity_max"]) == (16, 250)
    [group] = client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=["trial-large"])[
        "AutoScalingGroups"
    ]
    assert (group["MinSize"], group["MaxSize"], group["DesiredCapacity"]) == (0, 250, 0)

    least = deploy(url, "--grid", "trial", "pool", "large", "--min", "1", "--wait", "0.001", **reached)
    assert least.returncode == 1 and "0 of 1 nodes of large work; without a working worker: i-" in least.stderr
    assert (pool_row(api_url, "large")["capacity_min"], pool_row(api_url, "large")["capacity_max"]) == (1, 250)
    none = deploy(url, "--grid", "trial", "pool", "large", "--min", "0", **reached)
    assert none.returncode == 0, none.stderr
    client("autoscaling").set_desired_capacity(AutoScalingGroupName="trial-large", DesiredCapacity=0)

    cost = deploy(url, "--grid", "trial", "cost")
    assert "db.t4g.small" in cost.stdout and "c7i.4xlarge" in cost.stdout, cost.stderr
    assert "US dollars a month without jobs" in up.stdout

    shown = deploy(url, "--grid", "trial", "status")
    assert [line.split()[0] for line in shown.stdout.splitlines()] == [
        "trial-network",
        "trial",
        "trial-pool-default",
        "trial-pool-large",
    ]

    [bucket] = [found["Name"] for found in client("s3").list_buckets()["Buckets"] if "trial" in found["Name"]]
    part = deploy(url, "--grid", "trial", "destroy", "--yes", "--pool", "large")
    assert part.returncode == 0 and stacks(whole_ministack) >= {"trial", "trial-pool-default"}, part.stderr
    assert "trial-pool-large" not in stacks(whole_ministack)

    gone = deploy(url, "--grid", "trial", "destroy", "--yes")
    assert gone.returncode == 0, gone.stdout + gone.stderr
    assert not {name for name in stacks(whole_ministack) if name.startswith("trial")}
    assert bucket in {found["Name"] for found in client("s3").list_buckets()["Buckets"]}
    assert bucket in gone.stdout
    left = {
        "queues": client("sqs").list_queues(QueueNamePrefix="trial-").get("QueueUrls", []),
        "groups": [
            found["AutoScalingGroupName"]
            for found in client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
            if "trial" in found["AutoScalingGroupName"]
        ],
        "databases": [
            found["DBInstanceIdentifier"]
            for found in client("rds").describe_db_instances()["DBInstances"]
            if "trial" in found["DBInstanceIdentifier"]
        ],
        "roles": [found["RoleName"] for found in client("iam").list_roles()["Roles"] if "trial" in found["RoleName"]],
        "logs": client("logs").describe_log_groups(logGroupNamePrefix="/piecework/trial")["logGroups"],
    }
    assert not any(left.values()), left
    assert deploy(url, "--grid", "trial", "destroy", "--yes").returncode == 0, "it may be repeated"


def test_the_network_comes_up(whole_moto: Emulator) -> None:
    """Of the grid's stack, moto refuses more than it takes: so the command ends there, and says so in a line.

    Nor can moto delete the network, since it tries the VPC before what is in it.
    """
    up = deploy(whole_moto.url, "--grid", "wide", "up", "--image", IMAGE, "--egress", "public")

    assert "wide-network: CREATE_COMPLETE" in up.stdout, up.stderr
    assert up.returncode == 1 and len(up.stderr.splitlines()) == 1 and "DbiResourceId" in up.stderr


def test_a_stack_that_was_rolled_back_is_told_with_its_reason(whole_ministack: Emulator) -> None:
    place = [*network(whole_ministack), "--set=AmiParameter=/test/none"]

    first = deploy(whole_ministack.url, "--grid", "broken", "up", "--image", IMAGE, *place)
    second = deploy(whole_ministack.url, "--grid", "broken", "up", "--image", IMAGE, *place)

    for tried in (first, second):
        assert tried.returncode == 1 and len(tried.stderr.splitlines()) == 1
        assert "ROLLBACK_COMPLETE" in tried.stderr and "/test/none" in tried.stderr
    assert "delete-stack --stack-name broken" in second.stderr
    assert deploy(whole_ministack.url, "--grid", "broken", "destroy", "--yes").returncode == 0


async def launch(aws: Aws, group: str, count: int) -> list[str]:
    """The instances of a new group."""
    await create_group(aws, group, maximum=count, desired=count)
    [made] = (await aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group]))["AutoScalingGroups"]
    return [each["InstanceId"] for each in made["Instances"]]


def cloud_of(emulator: Emulator, group: str, api_url: str, monkeypatch: pytest.MonkeyPatch, say: Any) -> Cloud:
    """What `roll` works on, with a pool that has this group and the API's release."""
    cloud = Cloud(aioboto3.Session(), None, "trial", say, 0)
    outputs = {"Version": VERSION, "ApiUrl": "", "GroupName": group}
    monkeypatch.setattr(cloud.stacks, "outputs", AsyncMock(return_value=outputs))
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.url)
    monkeypatch.setenv("PIECEWORK_API_URL", api_url)
    monkeypatch.setenv("PIECEWORK_API_KEY", KEY)
    return cloud


@pytest.mark.parametrize("everyone", [False, True], ids=["other-releases", "all"])
async def test_workers_are_replaced_some_at_a_time(
    whole_ministack: Emulator,
    clients: OpenClients,
    own_database_url: str,
    api_url: str,
    monkeypatch: pytest.MonkeyPatch,
    everyone: bool,
) -> None:
    """Each is gone as soon as it drains, as an idle one is, and the group launches one of the pool's release."""
    database = await connect_database(own_database_url)
    await register_pool(database, "large", queue_url="q", dead_letter_url="d", group_name=None, slots=2)

    group = f"roll-{uuid4().hex[:8]}"
    instances = await launch(await clients(whole_ministack), group, 4)

    async def start(instance: str) -> UUID:
        worker_id = new_id()
        await register_worker(
            database, worker_id=worker_id, pool="large", hostname="h", instance_id=instance, pid=1, slots=2
        )
        return worker_id

    ids = [await start(instance) for instance in instances]
    await database.execute("UPDATE workers SET release = '0.1.9' WHERE worker_id = ANY($1)", ids[:3])
    most = 0

    async def pause(_: float) -> None:
        nonlocal most
        draining = await database.fetch(
            "SELECT worker_id, instance_id, replace_instance FROM workers WHERE state = 'draining'"
        )
        most = max(most, len(draining))
        for row in draining:
            assert row["replace_instance"]
            await stop_worker(database, row["worker_id"])
            await start(row["instance_id"])

    said: list[str] = []
    cloud = cloud_of(whole_ministack, group, api_url, monkeypatch, said.append)
    monkeypatch.setattr("deploy.aws.commands.asyncio.sleep", pause)

    await roll(cloud, "large", 2, everyone)

    gone = 4 if everyone else 3
    states = {row["worker_id"]: row["state"] for row in await database.fetch("SELECT worker_id, state FROM workers")}
    assert [states[each] for each in ids] == ["stopped"] * gone + ["active"] * (4 - gone)
    assert list(states.values()).count("active") == 4
    assert most == 2
    assert said[0].endswith(f"2 workers drain, {gone - 2} are to follow") and said[-1].startswith("large: all ")
    await database.close()


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["status"], {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no AWS credentials"),
        (["status"], {"AWS_DEFAULT_REGION": ""}, "no region"),
        (["status"], {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "AWS can't be reached"),
        (["--grid", "none", "pool", "large"], {}, "there is no stack none"),
        (["--grid", "none", "roll"], {}, "there is no stack none-pool-default"),
        (["pool", "large", "--set", "Types"], {}, "write NAME=VALUE"),
        (["--grid", "my-pool-x", "status"], {}, "take a name without -pool or -network"),
        (["--region", "no where", "status"], {}, "the AWS library refuses"),
        (["--grid", "new", "up", "--set=VpcId=vpc-1"], {}, "the grid is new: name its image"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    whole_ministack: Emulator, tmp_path: Path, arguments: list[str], environment: dict[str, str], says: str
) -> None:
    alone = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}

    done = deploy(whole_ministack.url, *arguments, **alone, **environment)

    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert says in done.stderr


@pytest.mark.parametrize(
    ("code", "message", "says"),
    [
        ("AccessDenied", "User: me is not authorized", "these credentials may not do this: User: me is not authorized"),
        ("UnauthorizedOperation", "You are not authorized", "may not do this: You are not authorized (CreateStack)"),
        ("AlreadyExistsException", "Stack [piecework] already exists", "the name is taken: Stack [piecework] already"),
        ("LimitExceededException", "200 stacks", "a quota is reached: 200 stacks; ask for more in Service Quotas"),
        ("ExpiredToken", "The token is old", "AWS does not take these credentials: The token is old"),
    ],
)
async def test_what_aws_refuses_is_said_with_the_way_out(code: str, message: str, says: str) -> None:
    async with aioboto3.Session(**CREDENTIALS).client("cloudformation") as client:
        with Stubber(client) as stub:
            stub.add_client_error("describe_stacks", "ValidationError", "Stack with id piecework does not exist")
            stub.add_client_error("create_stack", code, message)
            with pytest.raises(ClientError) as raised:
                await Stacks(client, print).make("piecework", "pool", {})

    assert says in _refusal(raised.value)


async def test_a_database_that_is_being_deleted_needs_no_more_than_that() -> None:
    """As where `destroy` was interrupted, and is repeated."""
    async with aioboto3.Session(**CREDENTIALS).client("rds") as rds:
        session = MagicMock()
        session.client.return_value.__aenter__ = AsyncMock(return_value=rds)
        with Stubber(rds) as stub:
            for code in ("InvalidDBInstanceState", "DBInstanceNotFound"):
                stub.add_client_error("modify_db_instance", code)
                await _unprotect_database(Cloud(session, None, "trial", print), "trial-database")
            stub.add_client_error("modify_db_instance", "AccessDenied")
            with pytest.raises(ClientError, match="AccessDenied"):
                await _unprotect_database(Cloud(session, None, "trial", print), "trial-database")


async def test_the_reason_is_that_of_what_was_done_last() -> None:
    begun = ("grid", "UPDATE_IN_PROGRESS", "")
    events = [("Queue", "UPDATE_FAILED", "no more queues"), begun, ("Role", "UPDATE_FAILED", "a year ago"), begun]
    told = [
        {
            "StackId": "s", "EventId": "e", "StackName": "grid", "Timestamp": datetime.now(UTC),
            "LogicalResourceId": name, "ResourceStatus": status, "ResourceStatusReason": why,
        }
        for name, status, why in events
    ]  # fmt: skip
    async with aioboto3.Session(**CREDENTIALS).client("cloudformation") as client:
        with Stubber(client) as stub:
            stub.add_response("describe_stack_events", {"StackEvents": told})
            assert await Stacks(client, print)._first_failure("s", "grid") == "Queue: no more queues"


def test_nothing_is_deleted_if_nobody_says_so(whole_ministack: Emulator) -> None:
    asked = deploy(whole_ministack.url, "destroy")
    assert (asked.returncode, asked.stderr) == (1, "deploy: nothing is deleted\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pool", "x", "--max", "many"], "'many' is not a number of nodes"),
        (["tunnel", "--port", "70000"], "'70000' is not a port"),
        (["up", "--egress", "proxy"], "invalid choice: 'proxy'"),
    ],
)
def test_an_option_that_cannot_be_is_named(arguments: list[str], says: str) -> None:
    done = deploy("http://127.0.0.1:9", *arguments)
    assert done.returncode == 2 and says in done.stderr.splitlines()[-1]


def play_aws(tmp_path: Path, port: str) -> None:
    """The AWS CLI, which leads a local port to this one, as a session with the control node does."""
    played = tmp_path / "aws"
    played.write_text(f"""#!{sys.executable}
import asyncio, sys
parameters = dict(pair.split("=") for pair in sys.argv[-1].split(","))
assert sys.argv[1:3] == ["ssm", "start-session"] and parameters["portNumber"] == "8000", sys.argv
async def lead(reader, writer):
    there, back = await asyncio.open_connection("127.0.0.1", {port})
    async def pump(one, other):
        while data := await one.read(65536):
            other.write(data)
        other.close()
    await asyncio.gather(pump(reader, back), pump(there, writer))
async def main():
    async with await asyncio.start_server(lead, "127.0.0.1", int(parameters["localPortNumber"])) as server:
        await server.serve_forever()
asyncio.run(main())
""")
    (tmp_path / "session-manager-plugin").write_text("#!/bin/sh\n")
    for program in tmp_path.iterdir():
        program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.mark.timeout(500)
async def test_without_a_certificate_the_api_is_reached_through_a_session(
    whole_ministack: Emulator, api_url: str, tmp_path: Path
) -> None:
    url, client = whole_ministack.url, client_of(whole_ministack)
    client("ssm").put_parameter(Name="/test/ami", Value="ami-0123456789abcdef0", Type="String", Overwrite=True)
    play_aws(tmp_path, api_url.rpartition(":")[2])
    place = [*network(whole_ministack), "--set=AmiParameter=/test/ami"]
    reached = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PIECEWORK_API_KEY": KEY}

    first = deploy(url, "--grid", "quiet", "up", "--image", IMAGE, *place, **reached)
    assert first.returncode == 1 and "has no control node in service" in first.stderr, first.stderr

    [group] = [
        found["AutoScalingGroupName"]
        for found in client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        if "quiet-ControlGroup" in found["AutoScalingGroupName"]
    ]
    client("autoscaling").set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=1)
    second = deploy(url, "--grid", "quiet", "pool", "default", "--max", "3", **reached)

    assert second.returncode == 0, second.stdout + second.stderr
    assert pool_row(api_url, "default")["capacity_max"] == 3
    assert deploy(url, "--grid", "quiet", "destroy", "--yes").returncode == 0


async def test_the_largest_node_follows_from_the_types(whole_moto: Emulator) -> None:
    """moto knows AWS's own list of types."""
    parameters = {"CpusMin": "0", "MemoryMibMin": "0", "RootGb": "40"}
    async with aioboto3.Session(**CREDENTIALS).client("ec2", endpoint_url=whole_moto.url) as ec2:

        async def largest(types: str, **other: str) -> Any:
            return await largest_node(ec2, {"InstanceTypes": types, **parameters, **other})

        assert await largest("m7g.large,c7g.xlarge") == {
            "cpus": 4,
            "memory": (8192 - 512 - 640) << 20,
            "gpus": 0,
            "disk": 20 << 30,
        }
        assert (await largest("c7g.medium,c7g.*"))["cpus"] == 64
        assert (await largest("g5.12xlarge"))["gpus"] == 4
        assert (await largest("m7g.large,r7g.large", CpusMin="2", MemoryMibMin="16000"))["memory"] >> 30 == 14
        assert await largest("m7g.large", CpusMin="4") is None
        assert await largest("z99.large") is None


def test_the_architecture_follows_from_the_types() -> None:
    assert architecture("m7g.large,c6gn.xlarge,im4gn.large,t4g.small,r8g.*") == "arm64"
    assert architecture("m7i.large, c6a.xlarge,g5.xlarge,p4d.24xlarge,trn1.2xlarge") == "x86_64"
    assert architecture("g5g.xlarge") == "arm64"
    with pytest.raises(DeployError, match="make two pools"):
        architecture("m7g.large,m7i.large")
