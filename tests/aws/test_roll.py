"""A pool gets a new version while its nodes are busy: nothing is cut, and `roll` replaces each node by a new one."""

import asyncio
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock
from uuid import uuid4

import aioboto3
import pytest

from deploy.aws.commands import Cloud, roll
from deploy.aws.includes import HERE
from deploy.local.emulator import Emulator
from deploy.local.postgres import EmbeddedPostgres
from piecework import Client
from services.platform.database import connect_database
from services.platform.version import VERSION
from tests.aws.conftest import client_of
from tests.aws.stacks import deploy
from tests.conftest import OpenClients, quick_settings
from tests.grid import Gate, ProcessGrid
from tests.groups import create_group
from tests.until import until

KEY = "pw_of_the_roll"


def test_a_new_version_of_the_stack_ends_no_node(whole_ministack: Emulator) -> None:
    """The emulator forgets the desired capacity, which AWS leaves alone if the template has none."""
    pool = deploy(whole_ministack, "ministack")
    autoscaling = client_of(whole_ministack)("autoscaling")
    autoscaling.set_desired_capacity(AutoScalingGroupName="piecework-default", DesiredCapacity=2)

    def group() -> Any:
        return autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=["piecework-default"])[
            "AutoScalingGroups"
        ][0]

    before = group()
    names = {given["ParameterKey"] for given in pool.describe("pool")["Parameters"]} - {"Version"}
    pool.client("cloudformation").update_stack(
        StackName="pool",
        TemplateBody=(HERE / "pool.yaml").read_text(),
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[
            {"ParameterKey": "Version", "ParameterValue": "0.3.0"},
            *({"ParameterKey": name, "UsePreviousValue": True} for name in names),
        ],
    )
    while (status := pool.describe("pool")["StackStatus"]).endswith("IN_PROGRESS"):
        pass

    assert status == "UPDATE_COMPLETE"
    after = group()
    assert [each["InstanceId"] for each in after["Instances"]] == [each["InstanceId"] for each in before["Instances"]]
    assert len(after["Instances"]) == 2


@pytest.mark.timeout(200)
@pytest.mark.parametrize("before", ["0.1.9", "9.9.9"], ids=["forth", "back"])
async def test_busy_nodes_are_replaced_and_their_job_is_right(
    postgres: EmbeddedPostgres,
    template: str,
    ministack: Emulator,
    clients: OpenClients,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: str,
) -> None:
    name = f"roll-{uuid4().hex[:8]}"
    settings = quick_settings(await postgres.create_database(name.replace("-", "_"), template), ministack, name)
    aws = await clients(ministack)
    await aws.s3.create_bucket(Bucket=name)
    await create_group(aws, name, maximum=4, desired=2)

    async def instances() -> list[str]:
        answer = await aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])
        return [each["InstanceId"] for each in answer["AutoScalingGroups"][0]["Instances"]]

    async with await connect_database(settings.database_url) as database:
        grid = ProcessGrid(settings, database, aws, tmp_path)
        try:
            await grid.prepare()
            await database.execute(
                "UPDATE pools SET group_name = $1, capacity_min = 2, capacity_max = 2, capacity_desired = 2", name
            )
            url = grid.start_server("api", bootstrap_api_key=KEY)
            grid.start_scheduler()
            old = await instances()
            for instance in old:
                grid.start_worker(instance_id=instance, slots=1, isolation="process")
            gate = Gate(tmp_path / "gate")
            job_id = await grid.submit(gate=gate.path)

            async def busy() -> bool:
                return len(list((tmp_path / "gate").iterdir())) == 2

            await until(busy, seconds_max=60)
            await database.execute("UPDATE workers SET release = $1", before)
            cloud = Cloud(aioboto3.Session(), None, name, print, 0.2)
            outputs = {"Version": VERSION, "ApiUrl": "", "GroupName": name}
            monkeypatch.setattr(cloud.stacks, "outputs", AsyncMock(return_value=outputs))
            monkeypatch.setenv("AWS_ENDPOINT_URL", ministack.url)
            monkeypatch.setenv("PIECEWORK_API_URL", url)
            monkeypatch.setenv("PIECEWORK_API_KEY", KEY)
            with Client(api_url=url, api_key=KEY) as client:

                def answers() -> bool:
                    try:
                        return bool(client.get_pool("default"))
                    except Exception:
                        return False

                await until(lambda: asyncio.to_thread(answers), seconds_max=60)
            rolling = asyncio.create_task(roll(cloud, "default", 2))

            async def draining() -> bool:
                return await database.fetchval("SELECT count(*) = 2 FROM workers WHERE state = 'draining'")

            await until(draining)
            gate.open()

            async def replaced() -> list[str]:
                found = await instances()
                return found if len(found) == 2 and not set(found) & set(old) else []

            new = await until(replaced, seconds_max=60)
            assert not rolling.done(), "the new nodes do not work yet"
            for instance in new:
                grid.start_worker(instance_id=instance, slots=1, isolation="process")
            await asyncio.wait_for(rolling, 60)

            await grid.assert_right(job_id)
            await grid.assert_nothing_cut(job_id)
        finally:
            grid.stop()
