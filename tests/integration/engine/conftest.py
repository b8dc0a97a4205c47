"""One database for all tests of the shared contract, emptied before each: a fresh one costs more than most tests."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from uuid import UUID

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.platform.database import Connection, Database
from services.platform.settings import Settings
from tests.integration.engine.play import Play, add_pool, add_processor

_KEPT = ("alembic_version", "schema_compatibility", "stats_watermark")


@pytest.fixture(scope="session")
async def shared_database_url(postgres: EmbeddedPostgres, template: str) -> str:
    return await postgres.create_database("common", template)


@pytest.fixture
async def database_url(shared_database_url: str) -> str:
    await empty(shared_database_url)
    return shared_database_url


async def empty(url: str) -> None:
    """Delete the rows of all tables."""
    connection = await asyncpg.connect(url)
    tables = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition "
        "AND relnamespace = 'public'::regnamespace AND relname <> ALL($1)",
        _KEPT,
    )
    await connection.execute("; ".join(f'DELETE FROM "{table["relname"]}"' for table in tables))
    await connection.close()


@pytest.fixture
def settings(database_url: str) -> Settings:
    """The contract's SQL needs no AWS, so neither do its tests."""
    return Settings(database_url=database_url)


@pytest.fixture
async def play(pool: Database, settings: Settings) -> Play:
    """A grid with the pool `default` and the processor `noop`, and every part of it played by the test."""
    await add_pool(pool, "default")
    await add_processor(pool, "noop", builtin="noop")
    return Play(pool, settings)


@pytest.fixture
async def chain(play: Play) -> UUID:
    """A job of two chained stages, its first stage planned with six tasks."""
    job_id = await play.submit(stages=2)
    await play.plan(job_id, 6)
    return job_id


Session = Callable[[], Awaitable[Connection]]


@pytest.fixture
async def session(pool: Database) -> AsyncIterator[Session]:
    """Opens further connections: for transactions that overlap."""
    async with AsyncExitStack() as stack:

        async def open_session() -> Connection:
            return await stack.enter_async_context(pool.acquire())

        yield open_session
