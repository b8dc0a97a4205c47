"""Databases of other revisions than this release's."""

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres


@pytest.fixture
async def empty_url(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database of the test's own, without a schema."""
    name = f"test_{uuid4().hex}"
    yield await postgres.create_database(name)
    connection = await asyncpg.connect(postgres.url("postgres"))
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """Schemas change in it, and real processes work on it."""
    return own_database_url
