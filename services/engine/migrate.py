"""Bring the database's schema up to date: `python -m services.engine.migrate`."""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from services.platform.database import sqlalchemy_url
from services.platform.settings import get_settings

_LOCK = 7_277_001  # any constant: services that start together migrate one after the other


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    command.upgrade(config, "head")


async def migrate(database_url: str) -> None:
    """Apply all outstanding migrations, in one transaction."""
    engine = create_async_engine(sqlalchemy_url(database_url))
    async with engine.begin() as connection:
        await connection.run_sync(_upgrade)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(migrate(get_settings().database_url))
