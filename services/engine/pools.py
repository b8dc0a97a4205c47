"""Pools of workers: their queues, their pause, and how many slots they have."""

from dataclasses import dataclass

from services.engine import transitions
from services.engine.errors import NotFound
from services.engine.jobs import notify_jobs
from services.platform.database import Connection, Database


@dataclass(frozen=True, slots=True)
class PoolQueues:
    """Where a pool's messages go."""

    queue_url: str
    dead_letter_url: str


async def load_pool(connection: Connection | Database, name: str) -> PoolQueues | None:
    row = await connection.fetchrow("SELECT queue_url, dead_letter_url FROM pools WHERE name = $1", name)
    return None if row is None else PoolQueues(**row)


# A pool that is paused already stays so since then.
_SET_PAUSED = """
    UPDATE pools SET paused = $2, paused_at = CASE WHEN NOT $2 THEN NULL WHEN paused THEN paused_at ELSE now() END
    WHERE name = $1"""


async def _set_pool_paused(connection: Connection, name: str, paused: bool) -> None:
    status = await connection.execute(_SET_PAUSED, name, paused)
    if status == "UPDATE 0":
        raise NotFound(f"no pool is named {name!r}")


async def pause_pool(connection: Connection, name: str) -> None:
    """Pause the pool: no more tasks start, running ones end as usual. Raises NotFound."""
    async with connection.transaction():
        await _set_pool_paused(connection, name, True)
        await transitions.withdraw(connection, pool=name)


async def resume_pool(connection: Connection, name: str) -> None:
    """Raises NotFound."""
    async with connection.transaction():
        await _set_pool_paused(connection, name, False)
        await notify_jobs(connection)


async def register_pool(
    connection: Connection, name: str, *, queue_url: str, dead_letter_url: str, group_name: str | None, slots: int
) -> None:
    """Add a pool, or change its queues and group; its capacity and pause do not change."""
    await connection.execute(
        "INSERT INTO pools (name, queue_url, dead_letter_url, group_name, slots) VALUES ($1, $2, $3, $4, $5) "
        "ON CONFLICT (name) DO UPDATE SET queue_url = $2, dead_letter_url = $3, group_name = $4, slots = $5, "
        "queue_error = NULL, queue_error_at = NULL",
        name,
        queue_url,
        dead_letter_url,
        group_name,
        slots,
    )
