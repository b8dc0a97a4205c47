"""When each loop last went well is noted in the database, so that a job can say that nobody looks at it."""

import asyncio
import time
from collections.abc import Sequence

import structlog

from services.platform.concurrency import is_cancelled
from services.platform.database import UNREADY, Database
from services.scheduler.loop import Loop

log = structlog.get_logger()

FIRST_SECONDS = 0.5  # after the start: a job that waits then should not say that there is no scheduler
SECONDS = 5.0

# Of any number of schedulers, the one whose loop went well last counts.
_NOTE = """
    INSERT INTO scheduler_loops AS l (loop, stepped_at, error)
    SELECT loop, now() - age_seconds * interval '1 second', error
    FROM json_to_recordset($1::json) AS noted (loop text, age_seconds float8, error text)
    ORDER BY loop
    ON CONFLICT (loop) DO UPDATE SET stepped_at = coalesce(excluded.stepped_at, l.stepped_at), error = excluded.error
    WHERE l.stepped_at IS NULL OR excluded.stepped_at >= l.stepped_at
        OR excluded.error IS NOT NULL AND l.stepped_at < now() - 2 * $2 * interval '1 second'"""


async def note(database: Database, loops: Sequence[Loop]) -> None:
    """Note the last good step of each loop, and the error of those that have failed since."""
    now = time.monotonic()
    rows = [
        {
            "loop": loop.name,
            "age_seconds": None if loop.stepped_at is None else now - loop.stepped_at,
            "error": loop.error,
        }
        for loop in loops
    ]
    await database.execute(_NOTE, rows, SECONDS)


async def keep_noting(database: Database, loops: Sequence[Loop]) -> None:
    """Note for ever. While the database is away, nothing is noted: then nobody can read it either."""
    pause = FIRST_SECONDS
    while not is_cancelled():
        await asyncio.sleep(pause)
        try:
            await note(database, loops)
        except UNREADY as error:
            log.debug("loops not noted", error=repr(error))
        pause = SECONDS
