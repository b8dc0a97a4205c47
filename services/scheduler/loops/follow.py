"""Follow: tasks of arrays that wait for those of another job by index are made as these end."""

import time

import structlog
from pydantic import ValidationError

from services.engine.dependencies import find_following, follow
from services.scheduler.loop import Context

log = structlog.get_logger()

JOBS_MAX = 100  # per step
# A step that has found something, or took long, rests this many times as long: it takes a twentieth of a core at most.
REST = 20
REST_SECONDS_MAX = 5.0
LONG_SECONDS = 0.05


async def step(context: Context) -> bool | float:
    """Look at arrays of whose predecessors some tasks have ended; how long to rest, or False if there were none."""
    began_at = time.monotonic()
    async with context.database.acquire() as connection:
        following = await find_following(connection, JOBS_MAX)
        for job_id in following:
            try:
                async with connection.transaction():
                    await follow(connection, job_id)
            except ValidationError as error:  # a newer release has submitted it, and may read it
                log.warning("array not followed", job=str(job_id), error=repr(error))
    took = time.monotonic() - began_at
    return min(took * REST, REST_SECONDS_MAX) if following or took > LONG_SECONDS else False
