"""Bring the database's schema up to date: `python -m services.engine.migrate`, while the services run.

It may be repeated, and several processes may run it at once. No statement of the services waits long for it: if a table
is in use, the migration tries again later. Each migration commits by itself. At the end, the services' roles get their
rights (services/engine/roles.py).
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import asyncpg
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from services.engine.roles import set_up_roles
from services.engine.schema import NEEDED_REVISION
from services.platform.database import SQLALCHEMY_URL, connect_alone
from services.platform.database_access import NotLetIn, Place
from services.platform.settings import Settings, read_settings

_LOCK = 7_277_001  # any constant: only one process migrates at a time
_TIMEOUTS = {
    "lock_timeout": "1s",  # longest wait for a table: every later statement, a claim too, waits behind it
    "statement_timeout": "60s",  # longest hold of a table; filling in many rows is a service's work, a few at a time
}
_PAUSE_SECONDS = 1.0
_PAUSE_SECONDS_MAX = 30.0

Say = Callable[[str], None]


async def migrate(place: Place, say: Say = lambda line: None) -> None:
    """Apply all outstanding migrations; `say` gets one line per migration and per wait."""
    engine = create_async_engine(SQLALCHEMY_URL, async_creator=partial(_connect, place))
    try:
        async with engine.connect() as connection:
            await _wait_for_others(connection, say)
            scripts = ScriptDirectory(str(Path(__file__).parent / "migrations"))  # reads all of them, at the first use
            async with connection.begin():
                found, outstanding = await connection.run_sync(_look, scripts)
            for revision in outstanding:
                await _apply(connection, scripts, found, revision, say)
                found = revision
            say(f"the schema is at {found}" + ("" if outstanding else ": nothing to do"))
            if found == NEEDED_REVISION and (advice := await set_up_roles(await _driver(connection))):
                say(advice)
    finally:
        await engine.dispose()


async def _connect(place: Place) -> asyncpg.Connection:
    """An index may take long; the server's time-outs limit everything else."""
    return await connect_alone(place, command_timeout=None)


async def _wait_for_others(connection: AsyncConnection, say: Say) -> None:
    """Hold the migration lock until the connection ends.

    The lock is polled: a waiting statement would block an index that another process builds.
    """
    said = False
    while True:
        async with connection.begin():
            if await connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK}):
                return
        if not said:
            say("another process is migrating this database: waiting")
            said = True
        await asyncio.sleep(_PAUSE_SECONDS)


async def _driver(connection: AsyncConnection) -> asyncpg.Connection:
    """asyncpg's own connection, outside of any transaction."""
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, asyncpg.Connection)
    return driver


def _look(connection: Connection, scripts: ScriptDirectory) -> tuple[str | None, list[str]]:
    """The database's revision (None if it is empty) and the revisions that it lacks."""
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found > NEEDED_REVISION:  # that of a newer release
        return found, []
    lacking = scripts.iterate_revisions("head", found)
    return found, [script.revision for script in reversed(list(lacking))]


async def _apply(
    connection: AsyncConnection, scripts: ScriptDirectory, found: str | None, revision: str, say: Say
) -> None:
    """Apply one migration; try again until it gets its locks."""
    started, pause = time.monotonic(), _PAUSE_SECONDS
    while True:
        try:
            await connection.run_sync(_upgrade, scripts, revision)
        except (DBAPIError, asyncpg.LockNotAvailableError) as error:
            if not _waited_for_lock(error):
                raise
            await connection.rollback()
            say(f"{revision}: a table that it changes is in use: trying again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)
        else:
            say(f"from {found or 'an empty database'} to {revision}: took {time.monotonic() - started:.1f} s")
            return


def _waited_for_lock(error: Exception) -> bool:
    """Whether this is a lock timeout, raised by asyncpg or wrapped twice by SQLAlchemy."""
    if isinstance(error, DBAPIError):
        return error.orig is not None and isinstance(error.orig.__cause__, asyncpg.LockNotAvailableError)
    return isinstance(error, asyncpg.LockNotAvailableError)


def _upgrade(connection: Connection, scripts: ScriptDirectory, revision: str) -> None:
    """As alembic.command.upgrade does, which would read all migrations again for each."""
    with connection.begin():
        for name, value in _TIMEOUTS.items():
            connection.execute(text(f"SET {name} = '{value}'"))
    config = Config(attributes={"connection": connection})
    with EnvironmentContext(config, scripts, fn=lambda found, _: scripts._upgrade_revs(revision, found)):
        scripts.run_env()


if __name__ == "__main__":
    try:
        asyncio.run(migrate(read_settings(Settings), partial(print, flush=True)))
    except NotLetIn as error:
        raise SystemExit(str(error)) from None
