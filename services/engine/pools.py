"""Pools of workers: their queues, their pause, and how many slots they have."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from services.contract.resources import Capacity
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


async def load_group(connection: Connection | Database, name: str) -> str | None:
    """The pool's Auto Scaling group."""
    group: str | None = await connection.fetchval("SELECT group_name FROM pools WHERE name = $1", name)
    return group


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
    connection: Connection,
    name: str,
    *,
    queue_url: str,
    dead_letter_url: str,
    group_name: str | None,
    slots: int,
    largest_node: Capacity | None = None,
) -> None:
    """Add a pool, or change its queues, group and largest node; its capacity and pause do not change."""
    await connection.execute(
        "INSERT INTO pools (name, queue_url, dead_letter_url, group_name, slots, largest_node) "
        "VALUES ($1, $2, $3, $4, $5, $6) "
        "ON CONFLICT (name) DO UPDATE SET queue_url = $2, dead_letter_url = $3, group_name = $4, slots = $5, "
        "largest_node = $6, queue_error = NULL, queue_error_at = NULL",
        name,
        queue_url,
        dead_letter_url,
        group_name,
        slots,
        largest_node and asdict(largest_node),
    )


async def set_prices(connection: Connection, name: str, on_demand: float | None, spot: float | None) -> None:
    """What a node of the pool costs an hour, in US dollars; None: nobody says."""
    statement = "UPDATE pools SET price_per_hour = $2, spot_price_per_hour = $3 WHERE name = $1"
    await connection.execute(statement, name, on_demand, spot)


_NOTE_SCALING_ERROR = """
    UPDATE pools SET scaling_error = $2, scaling_error_since = coalesce(scaling_error_since, now())
    WHERE name = $1 AND scaling_error IS DISTINCT FROM $2"""


async def note_scaling_error(connection: Connection | Database, name: str, error: str) -> None:
    """Tell why the pool's Auto Scaling group does not do what the pool wants, until a look finds that it does."""
    await connection.execute(_NOTE_SCALING_ERROR, name, error)


def within_group(nodes: int, group: Mapping[str, Any]) -> int:
    """The nearest number of nodes that the described Auto Scaling group can have: SetDesiredCapacity refuses others."""
    within: int = min(max(nodes, group["MinSize"]), group["MaxSize"])
    return within


def explain_group_limit(nodes: int, group: Mapping[str, Any]) -> str | None:
    """What to do if the pool wants this number of nodes and its Auto Scaling group can't have it; None if it can."""
    name = group["AutoScalingGroupName"]
    if nodes > group["MaxSize"]:
        return (
            f"the pool wants {nodes} nodes, and its Auto Scaling group {name} may have at most {group['MaxSize']}: "
            "raise the group's MaxSize where the group was made"
        )
    if nodes < group["MinSize"]:
        return (
            f"the pool wants no more than {nodes} nodes, and its Auto Scaling group {name} keeps at least "
            f"{group['MinSize']}: set the group's MinSize to 0 where the group was made"
        )
    return None
