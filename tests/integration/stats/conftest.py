"""A stats service on a database of the test's own, and ways to bring attempts and roll-ups about."""

import secrets
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI

from services.platform.auth import register_bootstrap_key
from services.platform.database import Connection, Database, new_id
from services.platform.settings import Settings
from services.stats.main import create_app
from services.stats.rollup import roll_up
from tests.roles import as_role

_COLUMNS = ("job_id", "stage", "index", "attempt", "worker_id", "pool", "outcome", "finished_at", "run_seconds",
            "bytes_in", "bytes_out", "records_in", "records_out", "records_rejected", "cpu_seconds",
            "memory_bytes_peak", "fetch_seconds", "put_seconds")  # fmt: skip


async def insert_attempts(connection: Connection | Database, attempts: list[dict[str, Any]]) -> None:
    """One transaction's attempts; what is not given is ordinary."""
    now: datetime = await connection.fetchval("SELECT now()")
    ordinary: dict[str, Any] = {
        "job_id": UUID(int=1),
        "stage": 0,
        "attempt": 1,
        "worker_id": UUID(int=2),
        "pool": "default",
        "outcome": "succeeded",
        "finished_at": now,
        "run_seconds": 0.5,
    }
    await connection.executemany(
        f"INSERT INTO attempts ({', '.join(_COLUMNS)}, started_at) "
        f"VALUES ({', '.join(f'${n}' for n in range(1, len(_COLUMNS) + 1))}, $8)",
        [tuple((ordinary | {"index": n} | attempt).get(c, 0) for c in _COLUMNS) for n, attempt in enumerate(attempts)],
    )


async def catch_up(database: Database) -> None:
    """Roll up until all that is committed now is counted.

    It may take several rounds: a transaction of any other database of the server holds the horizon back.
    """
    target = await database.fetchval("SELECT now()")
    while not await database.fetchval("SELECT rolled_up_at >= $1 FROM stats_watermark", target):
        await roll_up(database)


async def insert_worker(database: Database, /, **values: Any) -> UUID:
    """A worker of the pool `default` with two slots that has just started, unless `values` say otherwise."""
    worker: dict[str, Any] = {
        "worker_id": new_id(),
        "pool": "default",
        "hostname": "node",
        "pid": 1,
        "slots": 2,
    } | values
    places = ", ".join(f"${n}" for n in range(1, len(worker) + 1))
    await database.execute(f"INSERT INTO workers ({', '.join(worker)}) VALUES ({places})", *worker.values())
    worker_id: UUID = worker["worker_id"]
    return worker_id


async def insert_pool(database: Database, name: str) -> None:
    await database.execute("INSERT INTO pools (name, queue_url, dead_letter_url) VALUES ($1, 'q', 'd')", name)


@pytest.fixture
def settings(database_url: str) -> Settings:
    """The service needs no AWS, so neither do its tests."""
    return Settings(database_url=database_url)


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    """The service, with its roll-up running."""
    app = create_app(settings.model_copy(update={"database_url": as_role(settings.database_url, "stats")}))
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def anonymous(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://stats") as client:
        yield client


@pytest.fixture
async def client(anonymous: httpx.AsyncClient, database: Database) -> httpx.AsyncClient:
    """A client with a key."""
    secret = secrets.token_urlsafe()
    await register_bootstrap_key(database, secret)
    anonymous.headers["Authorization"] = f"Bearer {secret}"
    return anonymous
