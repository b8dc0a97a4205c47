"""Connections to Postgres: an asyncpg pool for the engine's SQL, JSON as Python values."""

from typing import Any
from uuid import UUID

import asyncpg
import orjson
from uuid_utils.compat import uuid7

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
Pool = asyncpg.Pool

JOBS_CHANNEL = "piecework_jobs"  # something about a job or schedule changed: scheduler loops wake
WEBHOOKS_CHANNEL = "piecework_webhooks"  # a delivery was recorded

# The database is restarted or fails over: the statement is worth another try.
UNAVAILABLE: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # raised when a connection breaks in the middle of a statement
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.ReadOnlySQLTransactionError,  # a failover: this server is a standby now
)


# Every statement of the engine finds its rows by key, but of a young table the planner has no statistics to know it by:
# without this, 10,000 tasks took 19 s instead of 1. A plan made while the table was small must not be kept either.
_PLANNER = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
}


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562): unique, and ordered by creation time."""
    return uuid7()


def dump_json(value: Any) -> str:
    return orjson.dumps(value).decode()


async def prepare_connection(connection: asyncpg.Connection) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, encoder=dump_json, decoder=orjson.loads, schema="pg_catalog")


async def connect_pool(url: str, connections_max: int = 10, connections_min: int = 0) -> Pool:
    """Open a pool; connections are made when first needed, so that a service starts before its database."""
    pool = asyncpg.create_pool(
        url,
        min_size=connections_min,
        max_size=connections_max,
        init=prepare_connection,
        command_timeout=60,
        timeout=10,
        server_settings=_PLANNER,
    )
    return await pool
