"""What the services expect to find is there after provisioning, however often it runs."""

import asyncpg
import pytest

from deploy.local.fleet import find_instances
from deploy.local.provision import ProvisionSettings, provision
from services.engine.pools import register_pool
from services.platform.auth import authenticate
from services.platform.aws import Aws, connect_aws
from services.platform.database import connect_database
from services.platform.settings import Settings
from tests.conftest import EmbeddedPostgres


@pytest.fixture
def grid(settings: Settings, postgres: EmbeddedPostgres) -> ProvisionSettings:
    """Settings of a grid of which nothing is there but the servers."""
    fresh = {"database_url": postgres.url(f"{settings.bucket}-db"), "bucket": f"{settings.bucket}-new"}
    return ProvisionSettings(**{**settings.model_dump(), **fresh, "bootstrap_api_key": "pw_first", "workers": 2})


@pytest.fixture
async def forgotten(settings: Settings) -> None:
    """No group and no queue of the default pool is left by another test."""
    async with connect_aws(settings) as aws:
        await aws.autoscaling.delete_auto_scaling_group(AutoScalingGroupName="piecework-default", ForceDelete=True)
        for url in (await aws.sqs.list_queues()).get("QueueUrls", []):
            await aws.sqs.delete_queue(QueueUrl=url)


@pytest.mark.usefixtures("forgotten")
async def test_everything_is_there_and_a_second_run_changes_nothing(grid: ProvisionSettings, aws: Aws) -> None:
    await provision(grid)
    first = await describe(grid, aws)
    await provision(grid)
    assert await describe(grid, aws) == first

    assert first["pool"]["capacity_desired"] == 2
    assert first["instances"] == 2
    assert first["key"] == "operator"
    assert grid.bucket in first["buckets"]
    assert {url.rpartition("/")[2] for url in first["queues"]} == {"piecework-default", "piecework-default-dead-letter"}


@pytest.mark.usefixtures("forgotten")
async def test_what_a_crashed_emulator_forgot_is_made_again(grid: ProvisionSettings, aws: Aws) -> None:
    await provision(grid)
    database = await connect_database(grid.database_url)
    async with database.acquire() as connection:
        urls = {name: f"{grid.aws_endpoint_url}/000000000000/piecework-{name}" for name in ("gpu", "gpu-dead-letter")}
        await register_pool(
            connection,
            "gpu",
            queue_url=urls["gpu"],
            dead_letter_url=urls["gpu-dead-letter"],
            group_name="video-nodes",
            slots=1,
        )
        await connection.execute("UPDATE pools SET capacity_max = 2, capacity_desired = 1 WHERE name = 'gpu'")
    await database.close()

    await provision(grid)

    queues = (await aws.sqs.list_queues())["QueueUrls"]
    assert set(urls.values()) <= set(queues)
    instances = await find_instances(aws.autoscaling)
    assert sorted(instance.pool for instance in instances) == ["default", "default", "gpu"]
    await aws.autoscaling.delete_auto_scaling_group(AutoScalingGroupName="video-nodes", ForceDelete=True)


@pytest.mark.usefixtures("forgotten")
async def test_a_capacity_that_was_changed_stays(grid: ProvisionSettings) -> None:
    await provision(grid)
    connection = await asyncpg.connect(grid.database_url)
    await connection.execute("UPDATE pools SET capacity_desired = 4, slots = 8")

    await provision(grid)

    row = await connection.fetchrow("SELECT capacity_desired, slots FROM pools")
    assert row is not None
    assert tuple(row) == (4, 8)
    await connection.close()


@pytest.mark.usefixtures("forgotten")
async def test_a_key_file_made_again_opens_an_old_database(grid: ProvisionSettings) -> None:
    await provision(grid)
    await provision(grid.model_copy(update={"bootstrap_api_key": "pw_second"}))
    database = await connect_database(grid.database_url)
    for secret in ("pw_first", "pw_second"):
        assert (await authenticate(database, f"Bearer {secret}")).role == "operator"
    await database.close()


async def test_without_an_emulator_nothing_is_made(grid: ProvisionSettings) -> None:
    with pytest.raises(ValueError, match="PIECEWORK_AWS_ENDPOINT_URL is not set"):
        await provision(grid.model_copy(update={"aws_endpoint_url": None}))


async def describe(grid: ProvisionSettings, aws: Aws) -> dict[str, object]:
    database = await connect_database(grid.database_url)
    try:
        row = await database.fetchrow("SELECT * FROM pools WHERE name = 'default'")
        assert row is not None
        return {
            "pool": dict(row),
            "key": (await authenticate(database, f"Bearer {grid.bootstrap_api_key}")).role,
            "instances": len(await find_instances(aws.autoscaling)),
            "queues": sorted((await aws.sqs.list_queues())["QueueUrls"]),
            "buckets": [bucket["Name"] for bucket in (await aws.s3.list_buckets())["Buckets"]],
        }
    finally:
        await database.close()
