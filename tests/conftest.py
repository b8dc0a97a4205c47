"""Fixtures every test can use: a real Postgres, a real S3/SQS/Auto Scaling endpoint, a fresh database and bucket."""

import asyncio
import gc
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
import structlog
import typer.testing
import uvloop
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from deploy.local.emulator import AWS_ENVIRONMENT, Emulator
from deploy.local.postgres import EmbeddedPostgres
from services.engine.migrate import migrate
from services.platform import effects
from services.platform.aws import Aws, connect_aws
from services.platform.database import Database, connect_database
from services.platform.health import VITALS
from services.platform.settings import ApiSettings, Settings
from tests import distribution, emulators
from tests.roles import let_in
from tests.servers import spare_the_disk
from tests.shared_database import SharedDatabase

OpenClients = Callable[[Emulator], Awaitable[Aws]]

os.environ.update(AWS_ENVIRONMENT)

gc.disable()  # until all tests are collected

# To compile all tests takes each process of a run ten seconds, whatever PYTHONDONTWRITEBYTECODE says of other programs.
sys.dont_write_bytecode = False

# The loop of the services, which needs less time for the same.
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

# Tests put data wherever they like; those of where jobs may read and write set this themselves.
ANYWHERE = {"PIECEWORK_READ_FROM": "*", "PIECEWORK_WRITE_TO": "*", "PIECEWORK_QUEUES": "*"}
os.environ.update(ANYWHERE)

# A shell has what it starts in the background ignore this, and the programs that tests interrupt would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A logger that has been used with one configuration would keep it, and `capture_logs` of another would miss its lines.
_configure = structlog.configure
structlog.configure = lambda **options: _configure(**options | {"cache_logger_on_first_use": False})

# A process makes these once: for every test, they would cost more than the test.
httpx._transports.default.create_ssl_context = cache(httpx.create_ssl_context)  # type: ignore[attr-defined]
typer.testing._get_command = cache(typer.testing._get_command)

# A busy machine is not a failure.
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
    await spare_the_disk(postgres)
    url = await postgres.create_database("template")
    await migrate(url)
    connection = await asyncpg.connect(url)
    await let_in(connection, url)
    await connection.close()
    return "template"


@pytest.fixture(scope="session")
async def shared_database(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[SharedDatabase]:
    shared = SharedDatabase(postgres, template)
    yield shared
    await shared.close()


@pytest.fixture
async def database_url(shared_database: SharedDatabase) -> str:
    """The URL of a migrated database without jobs; what the test does to it is undone before the next test."""
    return await shared_database.clean()


@pytest.fixture
async def own_database_url(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    """The URL of a fresh, migrated database that goes with the test, and with it all who are connected."""
    name = f"test_{uuid4().hex}"
    yield await postgres.create_database(name, template)
    connection = await asyncpg.connect(postgres.url("postgres"))
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await connect_database(database_url)
    yield database
    await database.close()


@pytest.fixture(autouse=True)
def no_request_within_a_transaction() -> Iterator[None]:
    """Whoever needs what a transaction has locked would wait for S3 or SQS."""
    made: list[effects.Effect] = []

    def refuse(effect: effects.Effect, begun_by: str) -> None:
        if begun_by != "elsewhere":  # a test may do what it likes in its own
            made.append(effect)
            raise AssertionError(f"{effect} within a transaction of {begun_by}")

    effects.watch_transactions(refuse)
    yield
    effects.watch_transactions(None)
    assert made == [], "requests within a transaction"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "both_emulators(*operations, **reasons): see tests.emulators")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    distribution.spread(items)


def pytest_collection_finish() -> None:
    """What all tests are made of stays: no garbage collection looks through it."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> distribution.Scheduler:
    return distribution.Scheduler(config, log)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that is marked `both_emulators` against each."""
    if marks := list(metafunc.definition.iter_markers("both_emulators")):
        reasons = {name: reason for mark in marks for name, reason in mark.kwargs.items()}
        fails = {name: pytest.mark.xfail(reason=reason, strict=True) for name, reason in reasons.items()}
        names = [pytest.param(name, marks=fails.get(name, ())) for name in emulators.NAMES]
        metafunc.parametrize("emulator", names, indirect=True)


@pytest.fixture(scope="session")
def ministack() -> Iterator[Emulator]:
    yield from running(Emulator(free_port()))


@pytest.fixture(scope="session")
def moto() -> Iterator[Emulator]:
    yield from running(emulators.Moto(free_port()))


def running(emulator: Emulator) -> Iterator[Emulator]:
    emulator.start()
    yield emulator
    emulator.stop()


@pytest.fixture
def emulator(request: pytest.FixtureRequest) -> Emulator:
    """The AWS of the test; each kind is started once a session, when the first test needs it."""
    emulator: Emulator = request.getfixturevalue(getattr(request, "param", "ministack"))
    return emulator


@pytest.fixture(autouse=True)
def well() -> Iterator[None]:
    """No test's process is ill of what another one did to it."""
    yield
    VITALS.forget_all()


@pytest.fixture(autouse=True)
def calls_what_it_names(request: pytest.FixtureRequest) -> Iterator[None]:
    """In a test marked `both_emulators`, the services call the operations that the mark names."""
    named = {operation for mark in request.node.iter_markers("both_emulators") for operation in mark.args}
    if not named:
        yield
        return
    with emulators.recording() as called:
        yield
    assert named <= called, f"the services called {sorted(called)}"


def quick_settings(database_url: str, emulator: Emulator, bucket: str) -> ApiSettings:
    """Of services that are never idle for long, and yet leave the processor to others while they wait."""
    return ApiSettings(
        database_url=database_url,
        aws_endpoint_url=emulator.url,
        bucket=bucket,
        loop_seconds=0.05,
        idle_seconds=0.5,
        webhook_private_addresses=True,
        secret_key="of the tests alone, long enough to be one",
    )


@pytest.fixture
async def settings(database_url: str, emulator: Emulator) -> ApiSettings:
    """Settings of a grid of the test's own: a database, its bucket, quick loops."""
    return quick_settings(database_url, emulator, f"test-{uuid4().hex}")


@pytest.fixture(scope="session")
async def clients() -> AsyncIterator[OpenClients]:
    """Open clients of each emulator; their connections serve all tests."""
    opened: dict[str, Aws] = {}
    async with AsyncExitStack() as stack:

        async def open_clients(emulator: Emulator) -> Aws:
            if emulator.url not in opened:
                settings = Settings(aws_endpoint_url=emulator.url)
                opened[emulator.url] = await stack.enter_async_context(connect_aws(settings))
            return opened[emulator.url]

        yield open_clients


@pytest.fixture
async def aws(settings: Settings, emulator: Emulator, clients: OpenClients) -> Aws:
    """Open clients; the bucket of `settings` exists."""
    aws = await clients(emulator)
    await aws.s3.create_bucket(Bucket=settings.bucket)
    return aws
