"""Sessions: none waits without limit, and none that stands still holds up the others."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from services.api.connections import connect
from services.api.main import create_app as create_api
from services.platform.aws import Aws
from services.platform.database import (
    JOBS_CHANNEL,
    LONG_SECONDS,
    UNAVAILABLE,
    Database,
    connect_alone,
    connect_database,
    notify,
)
from services.platform.settings import ApiSettings
from services.scheduler.loop import Context, Loop, listen
from services.scheduler.quiet import Quiet
from services.stats.main import create_app as create_stats
from tests.integration.engine.test_roles import ROOT, statements
from tests.storm.database_proxy import DatabaseProxy
from tests.until import until

SECONDS = 1.0  # of a statement: short, so that a test is
HOUR = 3600.0

_LIMITS = """
    SELECT name, setting::integer FROM pg_settings WHERE name IN ('idle_in_transaction_session_timeout',
        'lock_timeout', 'statement_timeout', 'tcp_user_timeout',
        'tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_keepalives_count')"""


@pytest.fixture
async def impatient(proxy: DatabaseProxy) -> AsyncIterator[Database]:
    """A pool whose connections pass the proxy."""
    database = await connect_database(proxy.url, seconds=SECONDS)
    yield database
    await database.close()


@pytest.fixture
def behind_proxy(settings: ApiSettings, proxy: DatabaseProxy) -> ApiSettings:
    return settings.model_copy(update={"database_url": proxy.url, "database_seconds": SECONDS})


async def open_some(database: Database, connections: int = 5) -> None:
    """Leave as many idle connections in the pool."""
    await asyncio.gather(*(database.execute("SELECT pg_sleep(0.1)") for _ in range(connections)))
    assert database.get_idle_size() == connections


async def test_every_session_has_limits(proxy: DatabaseProxy, behind_proxy: ApiSettings) -> None:
    expected = {
        "idle_in_transaction_session_timeout": 1000,
        "lock_timeout": 800,
        "statement_timeout": 60_000,
        "tcp_user_timeout": 2000,
        "tcp_keepalives_idle": 15,
        "tcp_keepalives_interval": 5,
        "tcp_keepalives_count": 3,
    }
    of_unix_sockets = dict.fromkeys(("tcp_user_timeout", *(name for name in expected if "alive" in name)), 0)
    pool = await connect_database(proxy.url, seconds=SECONDS)
    alone = await connect_alone(proxy.url, SECONDS)
    async with connect(behind_proxy) as connections, connections.engine.connect() as reading:
        driver = (await reading.get_raw_connection()).driver_connection
        assert driver is not None
        for session in (pool, alone, driver):
            # The proxy reaches the server by a Unix socket, for which it shows keepalives as 0.
            assert dict(map(tuple, await session.fetch(_LIMITS))) == expected | of_unix_sockets
    await pool.close()
    await alone.close()


async def test_no_statement_makes_a_connection_ask_for_types(database: Database) -> None:
    """asyncpg would ask about each array, once a connection; the server's log of statements tells."""
    asked: list[str] = []
    async with database.acquire() as connection:
        connection.add_query_logger(lambda query: asked.append(query.query))
        prepared = 0
        for service in ("api", "engine", "scheduler", "stats", "worker"):
            for _, statement in statements(ROOT / "services" / service):
                with suppress(asyncpg.PostgresError):  # DuckDB's, or a part of one
                    await connection.prepare(statement)
                    prepared += 1
        types = {"smallint": 1, "integer": 2, "bigint": 3, "float8": 0.5, "uuid": UUID(int=4), "jsonb": {"a": [5]}}
        for name, value in types.items():
            assert await connection.fetchval(f"SELECT $1::{name}[]", [value, None]) == [value, None]
        now = datetime(2026, 12, 1, tzinfo=UTC)
        assert await connection.fetchval("SELECT $1::timestamptz[]", [now]) == [now]
        assert await connection.fetchval("SELECT $1::xid8[]", [7]) == [7]
        assert await connection.fetchval("SELECT $1::bytea[]", [b"\0"]) == [b"\0"]
        assert await connection.fetchval("SELECT $1::date[]", [now.date()]) == [now.date()]
    assert prepared > 150
    assert [query for query in asked if "typeinfo" in query] == []


async def test_a_process_that_stands_still_in_a_transaction_holds_up_nobody_for_long(
    impatient: Database, database: Database
) -> None:
    await database.execute("INSERT INTO shares (name) VALUES ('held')")
    lock = "SELECT FROM shares WHERE name = 'held' FOR UPDATE"

    with pytest.raises(UNAVAILABLE):
        async with impatient.acquire() as frozen, frozen.transaction():
            await frozen.execute(lock)
            began = time.monotonic()
            await database.execute(lock)
            assert SECONDS / 2 < time.monotonic() - began < 5 * SECONDS
            await frozen.execute("SELECT 1")

    assert await impatient.fetchval("SELECT 1") == 1


async def test_who_waits_for_a_lock_too_long_is_told(impatient: Database, database: Database) -> None:
    await database.execute("INSERT INTO shares (name) VALUES ('held')")
    lock = "SELECT FROM shares WHERE name = 'held' FOR UPDATE"
    async with database.acquire() as holder, holder.transaction():
        await holder.execute(lock)

        with pytest.raises(asyncpg.LockNotAvailableError):
            await impatient.execute(lock)


async def test_a_long_statement_may_take_long_if_it_says_so(impatient: Database) -> None:
    with pytest.raises(TimeoutError):
        await impatient.execute("SELECT pg_sleep(1.5)")

    await impatient.execute("SELECT pg_sleep(1.5)", timeout=LONG_SECONDS)


async def test_connections_that_were_idle_and_fell_silent_are_replaced(
    impatient: Database, proxy: DatabaseProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.platform.database._TRUSTED_SECONDS", 0.0)
    monkeypatch.setattr("services.platform.database.PROBE_SECONDS", 0.2)
    await open_some(impatient)
    assert proxy.silence() == 5

    answers = await asyncio.gather(*(impatient.fetchval("SELECT 1") for _ in range(10)))

    assert answers == [1] * 10


async def test_a_statement_on_a_connection_that_falls_silent_ends_in_time(
    impatient: Database, proxy: DatabaseProxy
) -> None:
    """Not twice its time: asyncpg asks the server to cancel it, which may be as silent."""
    await open_some(impatient)
    began = time.monotonic()
    proxy.silence()

    outcomes = await asyncio.gather(*(impatient.fetchval("SELECT 1") for _ in range(5)), return_exceptions=True)

    assert all(isinstance(outcome, TimeoutError) for outcome in outcomes)
    assert time.monotonic() - began < 4 * SECONDS
    assert await impatient.fetchval("SELECT 1") == 1


async def test_nobody_waits_for_ever_for_a_connection(impatient: Database) -> None:
    async with asyncio.TaskGroup() as group:
        holders = [await impatient.acquire() for _ in range(10)]

        with pytest.raises(TimeoutError):
            await impatient.fetchval("SELECT 1")

        for holder in holders:
            group.create_task(impatient.release(holder))
    assert await impatient.fetchval("SELECT 1") == 1


async def test_a_pool_whose_connections_are_silent_is_closed_soon(impatient: Database, proxy: DatabaseProxy) -> None:
    await open_some(impatient)
    proxy.silence()
    began = time.monotonic()

    await impatient.close()

    assert time.monotonic() - began < 5


async def test_a_silent_connection_to_listen_on_is_replaced(
    database: Database, behind_proxy: ApiSettings, proxy: DatabaseProxy
) -> None:
    async def nothing(_: Context) -> bool:
        return False

    loop = Loop("mine", nothing, HOUR, HOUR, frozenset([JOBS_CHANNEL]))
    listening = asyncio.create_task(listen(behind_proxy, [loop], Quiet()))
    try:
        await asyncio.wait_for(loop.wake.wait(), 10)  # it listens now
        loop.wake.clear()
        assert proxy.silence() == 1

        await asyncio.wait_for(loop.wake.wait(), 10)  # and again

        loop.wake.clear()
        async with database.acquire() as connection:
            await notify(connection, JOBS_CHANNEL)
        await asyncio.wait_for(loop.wake.wait(), 2)
    finally:
        listening.cancel()
        await asyncio.wait({listening})


def services(settings: ApiSettings) -> list[FastAPI]:
    return [create_api(settings), create_stats(settings)]


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


def pool_of(app: FastAPI) -> Database:
    state: Any = app.state
    found: Database = getattr(state, "database", None) or state.connections.database
    return found


@pytest.mark.usefixtures("aws")
async def test_readyz_answers_within_two_seconds_whatever_the_database_does(
    behind_proxy: ApiSettings, proxy: DatabaseProxy
) -> None:
    patient = behind_proxy.model_copy(update={"database_seconds": 10.0})
    for app in services(patient):
        async with app.router.lifespan_context(app), client_of(app) as client:

            async def status(client: httpx.AsyncClient = client) -> int:
                began = time.monotonic()
                answer = await client.get("/readyz")
                assert time.monotonic() - began < 2
                return answer.status_code

            assert await status() == 200

            held = [await pool_of(app).acquire() for _ in range(10)]
            assert await status() == 503  # it can serve nobody
            for connection in held:
                await pool_of(app).release(connection)
            assert await status() == 200

            proxy.silence()
            proxy.frozen = True
            assert await status() == 503
            began = time.monotonic()
        assert time.monotonic() - began < 8  # it stops in time, too
        proxy.frozen = False


@pytest.mark.usefixtures("aws")
async def test_the_api_answers_again_after_its_connections_fell_silent(
    behind_proxy: ApiSettings, proxy: DatabaseProxy, database: Database
) -> None:
    app = create_api(behind_proxy.model_copy(update={"bootstrap_api_key": "pw_first"}))
    headers = {"authorization": "Bearer pw_first"}
    async with app.router.lifespan_context(app), client_of(app) as client:

        async def both() -> bool:
            paths = ("/v1/jobs", "/v1/pools")  # by SQLAlchemy, by asyncpg
            return all([(await client.get(path, headers=headers)).is_success for path in paths])

        await until(both)
        proxy.silence()

        await until(both, 10)

    assert await database.fetchval("SELECT count(*) FROM api_keys") == 1


async def test_the_system_looks_after_connections_on_which_nothing_is_said(proxy: DatabaseProxy, aws: Aws) -> None:
    connection = await connect_alone(proxy.url)
    raw: Any = connection
    transport_socket = raw._transport.get_extra_info("socket")

    assert transport_socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert transport_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
    assert transport_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
    await connection.close()
