"""The traces that jobs belong to."""

from uuid import UUID

from services.platform import tracing
from services.platform.database import Database

_TRACEPARENT = "SELECT traceparent FROM jobs WHERE job_id = $1"


async def trace_of(database: Database, job_id: UUID) -> str | None:
    """The job's traceparent; None if it has none, or if this scheduler records no spans."""
    if not tracing.recording():
        return None
    traceparent: str | None = await database.fetchval(_TRACEPARENT, job_id)
    return traceparent
