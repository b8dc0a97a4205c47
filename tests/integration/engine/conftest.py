"""A grid whose every part is played by the test."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from uuid import UUID

import pytest

from services.platform.database import Connection, Database
from services.platform.settings import Settings
from tests.integration.engine.play import Play, set_up


@pytest.fixture
def settings(database_url: str) -> Settings:
    """The contract's SQL needs no AWS, so neither do its tests."""
    return Settings(database_url=database_url)


@pytest.fixture
async def play(database: Database, settings: Settings) -> Play:
    """A grid with the pool `default` and the processor `noop`, and every part of it played by the test."""
    return await set_up(database, settings)


@pytest.fixture
async def chain(play: Play) -> UUID:
    """A job of two chained stages, its first stage planned with six tasks."""
    job_id = await play.submit(stages=2)
    await play.plan(job_id, 6)
    return job_id


Session = Callable[[], Awaitable[Connection]]


@pytest.fixture
async def session(database: Database) -> AsyncIterator[Session]:
    """Opens further connections: for transactions that overlap."""
    async with AsyncExitStack() as stack:

        async def open_session() -> Connection:
            return await stack.enter_async_context(database.acquire())

        yield open_session
