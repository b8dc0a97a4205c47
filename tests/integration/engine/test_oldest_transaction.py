"""The oldest transaction that may still commit rows of this database; those of others on the server don't count."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.platform.database import Database, connect_database
from services.platform.settings import Settings
from services.stats.rollup import roll_up
from tests.integration.stats.conftest import insert_attempts
from tests.roles import as_role

OLDEST = "SELECT oldest_transaction()"


@asynccontextmanager
async def writing(url: str) -> AsyncIterator[int]:
    """A transaction that writes, and stays open; its id."""
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        yield await connection.fetchval("SELECT pg_current_xact_id()")
    await connection.close()


@pytest.mark.parametrize("service", ["scheduler", "stats"])
async def test_transactions_of_other_databases_are_not_counted(
    database_url: str, database: Database, postgres: EmbeddedPostgres, service: str
) -> None:
    seeing = await connect_database(as_role(database_url, service))
    async with writing(postgres.url("postgres")) as others:
        committed = await database.fetchval("SELECT pg_current_xact_id()")
        assert await seeing.fetchval(OLDEST) > committed > others
        async with writing(database_url) as ours, writing(database_url) as later, writing(postgres.url("postgres")):
            assert later > ours > others
            assert await seeing.fetchval(OLDEST) == ours
        committed = await database.fetchval("SELECT pg_current_xact_id()")
        assert await seeing.fetchval(OLDEST) > committed > later
    await seeing.close()


async def test_a_stray_transaction_in_another_database_does_not_stop_the_roll_up(
    database: Database, postgres: EmbeddedPostgres, settings: Settings
) -> None:
    async with writing(postgres.url("postgres")):
        await insert_attempts(database, [{}, {}])

        assert await roll_up(database) == 2


async def test_what_the_calling_statement_does_not_see_is_not_before_it(database: Database, database_url: str) -> None:
    """Or rows would be skipped that commit between the statement's snapshot and the function's."""
    async with database.acquire() as connection, writing(database_url) as ours:
        async with connection.transaction(isolation="repeatable_read"):
            assert await connection.fetchval(OLDEST) == ours
            async with asyncio.timeout(10):
                await database.execute("CREATE TABLE IF NOT EXISTS other_rows ()")
            assert await connection.fetchval(OLDEST) == ours
        await database.execute("DROP TABLE other_rows")
