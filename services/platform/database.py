"""Connections to Postgres: an asyncpg pool for the engine's SQL, JSON as Python values."""

from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from uuid_utils.compat import uuid7

from services.platform import effects

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
Database = asyncpg.Pool

JOBS_CHANNEL = "piecework_jobs"  # a job or schedule changed: scheduler loops wake
WEBHOOKS_CHANNEL = "piecework_webhooks"  # a delivery was recorded

# The database restarts or fails over: the statement may be tried again.
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
    asyncpg.InvalidCachedStatementError,  # a migration has changed a table: the statement was prepared before
)


class UnknownSchema(Exception):
    """This release can't work on the database's schema; the message names both, and what to run."""


# The schema lacks what a statement names: it was not migrated.
UNMIGRATED: tuple[type[BaseException], ...] = (
    UnknownSchema,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
)

# The database is away, still starting, or not migrated yet: the same request is worth another try.
UNREADY: tuple[type[BaseException], ...] = (
    *UNAVAILABLE,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
    *UNMIGRATED,
)


# Every statement of the engine finds its rows by key, but the planner has no statistics of a young table: without this,
# 10,000 tasks took 19 s instead of 1. A plan made while the table was small must not be kept either.
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
    return orjson.dumps(value, default=_plain).decode()


def _plain(value: Any) -> str:
    """What orjson does not write by itself: asyncpg's own kind of UUID."""
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"a {type(value).__name__} can't be written as JSON")


class _Gated(asyncpg.Connection):
    """A connection whose effects pass the gate: statements that stand alone, and COMMIT for those of a transaction."""

    def _passing(self, query: str) -> AbstractContextManager[None]:
        return effects.passing("sql") if effects.watched() and self._has_effect(query) else effects.UNSEEN

    def _has_effect(self, query: str) -> bool:
        if self.is_closed():
            return False
        if self.is_in_transaction():
            return query == "COMMIT;"
        return not query.startswith("BEGIN")

    def get_reset_query(self) -> str:
        """Nothing to reset: our statements leave nothing in the session, and a reset would cost another round trip."""
        return ""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        with self._passing(query):
            return await super().execute(query, *args, timeout=timeout)

    async def executemany(self, command: str, args: Any, *, timeout: float | None = None) -> None:
        with self._passing(command):
            await super().executemany(command, args, timeout=timeout)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        with self._passing(query):
            return await super().fetch(query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        with self._passing(query):
            return await super().fetchval(query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        with self._passing(query):
            return await super().fetchrow(query, *args, **options)

    async def fetchmany(self, query: str, args: Any, **options: Any) -> Any:
        with self._passing(query):
            return await super().fetchmany(query, args, **options)


async def _prepare(connection: asyncpg.Connection) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, encoder=dump_json, decoder=orjson.loads, schema="pg_catalog")


async def connect_database(url: str, connections_max: int = 10, connections_min: int = 0) -> Database:
    """Open a pool. It connects only when needed, so that a service can start before its database."""
    pool = asyncpg.create_pool(
        url,
        min_size=connections_min,
        max_size=connections_max,
        init=_prepare,
        connection_class=_Gated,
        command_timeout=60,
        timeout=10,
        server_settings=_PLANNER,
    )
    return await pool


async def notify(connection: Connection, channel: str) -> None:
    """Wake the channel's listeners: at once, or when the connection's transaction commits."""
    await connection.execute("SELECT pg_notify($1, '')", channel)


def sqlalchemy_url(url: str) -> str:
    """The same database for SQLAlchemy, by asyncpg."""
    return url.replace("postgresql://", "postgresql+asyncpg://", 1)


async def connect_alone(url: str) -> asyncpg.Connection:
    """Open a connection outside any pool, to LISTEN on."""
    return await asyncpg.connect(url, timeout=10, connection_class=_Gated)


def storable(text: str) -> str:
    """The text without what Postgres does not store: NUL characters and lone surrogates."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
