"""Fixtures every test can use: a real Postgres, a real S3/SQS/Auto Scaling endpoint, a fresh database and bucket."""

import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from deploy.local.emulator import AWS_ENVIRONMENT, Emulator
from deploy.local.postgres import EmbeddedPostgres
from services.engine.migrate import migrate
from services.platform.aws import Aws, connect_aws
from services.platform.database import Database, connect_database
from services.platform.settings import Settings

os.environ.update(AWS_ENVIRONMENT)

# A shell has what it starts in the background ignore this, and the programs that tests interrupt would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure.
hypothesis_settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("patient")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """One server for the session, with the migrated database `template` to copy."""
    with tempfile.TemporaryDirectory(prefix="piecework-test-", ignore_cleanup_errors=True) as directory:
        server = EmbeddedPostgres(Path(directory) / "data")
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
async def template(postgres: EmbeddedPostgres) -> str:
    url = await postgres.create_database("template")
    await migrate(url)
    connection = await asyncpg.connect(url)
    await connection.execute("ALTER SYSTEM SET fsync = off")  # many databases come and go; no test pulls the plug
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()
    return "template"


@pytest.fixture
async def database_url(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    """The URL of a fresh, migrated database of the test's own."""
    name = f"test_{uuid4().hex}"
    yield await postgres.create_database(name, template)
    connection = await asyncpg.connect(postgres.url("postgres"))
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Database]:
    pool = await connect_database(database_url)
    yield pool
    await pool.close()


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    emulator = Emulator(free_port())
    emulator.start()
    yield emulator
    emulator.stop()


@pytest.fixture
async def settings(database_url: str, emulator: Emulator) -> Settings:
    """Settings of a grid of the test's own: its database, its bucket, quick loops."""
    return Settings(
        database_url=database_url,
        aws_endpoint_url=emulator.url,
        bucket=f"test-{uuid4().hex}",
        loop_seconds=0.02,
        idle_seconds=0.1,
        webhook_private_addresses=True,
    )


@pytest.fixture(scope="session")
async def shared_aws(emulator: Emulator) -> AsyncIterator[Aws]:
    """Open clients; their connections serve all tests."""
    async with connect_aws(Settings(aws_endpoint_url=emulator.url)) as aws:
        yield aws


@pytest.fixture
async def aws(settings: Settings, shared_aws: Aws) -> Aws:
    """Open clients; the bucket of `settings` exists."""
    await shared_aws.s3.create_bucket(Bucket=settings.bucket)
    return shared_aws
