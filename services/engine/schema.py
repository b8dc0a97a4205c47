"""Whether this release can work on the database's schema. It can if the schema is newer but nothing was removed.

A revision is a number of four digits, and each release's migrations continue those of the release before. So a revision
that this release does not know belongs to a newer one. Such a database names the oldest release that can work on it.
"""

import asyncio
from pathlib import Path

import asyncpg
import structlog

from services.platform.concurrency import is_cancelled
from services.platform.database import UNREADY, Connection, Database, UnknownSchema

log = structlog.get_logger()

_VERSIONS = Path(__file__).parent / "migrations" / "versions"
NEEDED_REVISION = max(path.name.partition("_")[0] for path in _VERSIONS.glob("*.py"))

_RETRY_SECONDS = 1.0
READY_SECONDS = 1.5


async def check_schema(database: Connection | Database) -> None:
    """Raises UnknownSchema, and the driver's errors while the database is away."""
    try:
        found: str | None = await database.fetchval("SELECT max(version_num) FROM alembic_version")
    except asyncpg.UndefinedTableError:
        found = None
    if found is None or found < NEEDED_REVISION:
        raise UnknownSchema(
            f"the database's schema is at {found or 'no revision'} and this release needs {NEEDED_REVISION}: "
            "run this release's `python -m services.engine.migrate`"
        )
    oldest: str = await database.fetchval("SELECT oldest_revision FROM schema_compatibility")
    if oldest > NEEDED_REVISION:
        raise UnknownSchema(
            f"the database's schema is at {found}, on which releases before {oldest} do not work, and this one is of "
            f"{NEEDED_REVISION}: run a newer release"
        )


_asking: set[asyncio.Task[None]] = set()


async def check_ready(database: Database) -> None:
    """As `check_schema`, but within READY_SECONDS, whatever the database does: raises TimeoutError.

    What has been asked goes on by itself: to break it off takes time, too.
    """
    asking = asyncio.create_task(check_schema(database))
    _asking.add(asking)
    asking.add_done_callback(_forget)
    done, _ = await asyncio.wait({asking}, timeout=READY_SECONDS)
    if not done:
        raise TimeoutError(f"no answer within {READY_SECONDS:g} s")
    asking.result()


def _forget(asking: asyncio.Task[None]) -> None:
    _asking.discard(asking)
    if not asking.cancelled():
        asking.exception()  # who asked may have gone


async def wait_for_schema(database: Database) -> None:
    """Return once the database is up and has its schema. Logs what it waits for, once."""
    said: set[type[BaseException]] = set()
    while not is_cancelled():
        try:
            await check_schema(database)
        except UNREADY as error:
            if type(error) not in said:
                log.warning("waiting for the database", error=str(error) or repr(error))
                said.add(type(error))
        else:
            return
        await asyncio.sleep(_RETRY_SECONDS)
    raise asyncio.CancelledError
