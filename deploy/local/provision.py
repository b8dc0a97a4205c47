"""Create what the services expect to find: `python -m deploy.local.provision`.

Waits for the database and the emulator, then brings up to date: the schema, the services' database users, the
operator's API key, the bucket, and for each pool its queues and its Auto Scaling group. Whatever is there already stays
as it is, so it can run any time.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import Field, NonNegativeInt, PositiveInt

from deploy.local.fleet import GROUP_PREFIX, POOL_TAG
from deploy.local.roles import ensure_logins
from services.engine.migrate import migrate
from services.engine.pools import register_pool
from services.platform.auth import hash_secret, register_bootstrap_key
from services.platform.aws import Aws, connect_aws
from services.platform.database import Connection, connect_alone, new_id
from services.platform.process import hide_environment
from services.platform.settings import Settings

Value = TypeVar("Value")

_WAIT_SECONDS = 60.0
_DEFAULT_POOL = "default"
_GROUP_MAX = 100  # nodes


class ProvisionSettings(Settings):
    """What is made at first: an operator's key, and the pool `default` with its first capacity."""

    bootstrap_api_key: str | None = Field(None, description="an operator's key")
    passwords: dict[str, str] = Field({}, description="of the services' database users, by user")
    workers: NonNegativeInt = Field(3, description="workers at first")
    workers_min: NonNegativeInt = 3
    workers_max: PositiveInt = 4
    auto_scaling: bool = Field(True, description="give the pool an Auto Scaling group; without, nobody scales it")
    slots: PositiveInt = Field(2, description="tasks one worker runs at a time")


async def _retry(attempt: Callable[[], Awaitable[Value]], errors: tuple[type[Exception], ...]) -> Value:
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            return await attempt()
        except errors:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


async def open_database(settings: Settings) -> asyncpg.Connection:
    """Connect as soon as the server takes connections; the database is created if it is missing."""
    unavailable = (OSError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError)

    async def connect() -> asyncpg.Connection:
        try:
            return await connect_alone(settings, command_timeout=None)
        except asyncpg.InvalidCatalogNameError:
            maintenance = await connect_alone(settings, database="postgres", command_timeout=None)
            try:
                name = urlsplit(settings.database_url).path.strip("/")
                await maintenance.execute(f'CREATE DATABASE "{name}"')
            except asyncpg.DuplicateDatabaseError:
                pass
            finally:
                await maintenance.close()
            return await connect_alone(settings, command_timeout=None)

    return await _retry(connect, unavailable)


async def ensure_key(connection: Connection, secret: str) -> None:
    """The key opens the API, even if it was created again while others exist; a revoked one stays revoked."""
    if not await register_bootstrap_key(connection, secret):
        await connection.execute(
            "INSERT INTO api_keys (key_id, name, role, key_hash) VALUES ($1, 'local', 'operator', $2) "
            "ON CONFLICT (key_hash) DO NOTHING",
            new_id(),
            hash_secret(secret),
        )


async def ensure_bucket(s3: Any, bucket: str) -> None:
    buckets = await s3.list_buckets()
    if all(found["Name"] != bucket for found in buckets["Buckets"]):
        await s3.create_bucket(Bucket=bucket)


async def ensure_default_pool(connection: Connection, aws: Aws, settings: ProvisionSettings) -> None:
    if await connection.fetchval("SELECT EXISTS (SELECT FROM pools WHERE name = $1)", _DEFAULT_POOL):
        return
    names = [f"piecework-{_DEFAULT_POOL}", f"piecework-{_DEFAULT_POOL}-dead-letter"]
    queue_url, dead_letter_url = [(await aws.sqs.create_queue(QueueName=name))["QueueUrl"] for name in names]
    async with connection.transaction():
        await register_pool(
            connection,
            _DEFAULT_POOL,
            queue_url=queue_url,
            dead_letter_url=dead_letter_url,
            group_name=f"{GROUP_PREFIX}{_DEFAULT_POOL}" if settings.auto_scaling else None,
            slots=settings.slots,
        )
        await connection.execute(
            "UPDATE pools SET capacity_min = $2, capacity_max = $3, capacity_desired = $4 WHERE name = $1",
            _DEFAULT_POOL,
            min(settings.workers_min, settings.workers),
            max(settings.workers_max, settings.workers),
            settings.workers,
        )


async def ensure_pool(connection: Connection, aws: Aws, pool: asyncpg.Record) -> None:
    """The pool's queues and group exist: an emulator that crashed forgets those made since its last clean stop."""
    urls = [
        (await aws.sqs.create_queue(QueueName=urlsplit(pool[column]).path.rpartition("/")[2]))["QueueUrl"]
        for column in ("queue_url", "dead_letter_url")
    ]
    await connection.execute(
        "UPDATE pools SET queue_url = $2, dead_letter_url = $3 "
        "WHERE name = $1 AND (queue_url, dead_letter_url) <> ($2, $3)",
        pool["name"],
        *urls,
    )
    if pool["group_name"] is not None:
        await ensure_group(aws.autoscaling, pool)


async def ensure_group(autoscaling: Any, pool: asyncpg.Record) -> None:
    found = await autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[pool["group_name"]])
    if not found["AutoScalingGroups"]:
        await autoscaling.create_auto_scaling_group(
            AutoScalingGroupName=pool["group_name"],
            MinSize=0,
            MaxSize=max(_GROUP_MAX, pool["capacity_max"]),  # the pool's own bounds are in its row
            DesiredCapacity=pool["capacity_desired"],
            AvailabilityZones=["us-east-1a"],
            Tags=[{"Key": POOL_TAG, "Value": pool["name"], "PropagateAtLaunch": True}],
        )


async def provision(settings: ProvisionSettings) -> None:
    if settings.aws_endpoint_url is None:
        raise ValueError("PIECEWORK_AWS_ENDPOINT_URL is not set: this makes resources in an emulator, not in AWS")
    connection = await open_database(settings)
    try:
        await migrate(settings, print)
        if settings.passwords:
            await ensure_logins(connection, settings.passwords)
        if settings.bootstrap_api_key is not None:
            await ensure_key(connection, settings.bootstrap_api_key)
        async with connect_aws(settings) as aws:
            await _retry(lambda: ensure_bucket(aws.s3, settings.bucket), (BotoCoreError,))
            await ensure_default_pool(connection, aws, settings)
            for pool in await connection.fetch("SELECT * FROM pools"):
                await ensure_pool(connection, aws, pool)
    finally:
        await connection.close()


if __name__ == "__main__":
    try:
        settings = ProvisionSettings()
        hide_environment()
        asyncio.run(provision(settings))
    except (ValueError, OSError, asyncpg.PostgresError, BotoCoreError, ClientError) as error:
        sys.exit(f"provision: {error}")
