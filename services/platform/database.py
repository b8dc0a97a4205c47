"""Connections to Postgres: an asyncpg pool for the engine's SQL, JSON as Python values.

Nothing here waits without limit, whether the server is away, stands still, or a connection has fallen silent. And no
process that stands still holds up the others: the server ends its session.
"""

import asyncio
import os
import socket
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from uuid_utils.compat import uuid7

from services.platform import effects
from services.platform.database_access import DatabaseAccess, Place, access
from services.platform.metrics import MeasuredPool

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy

SQLALCHEMY_URL = "postgresql+asyncpg://"  # the driver; `async_creator` connects, so that there is one way to do it

JOBS_CHANNEL = "piecework_jobs"  # a job or schedule changed: scheduler loops wake
TASKS_CHANNEL = "piecework_tasks"  # a stage has run dry: the last of its bundles has ended
ENDS_CHANNEL = "piecework_ends"  # tasks of an open job have ended, or any job has: its id is the payload
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
    asyncpg.LockNotAvailableError,  # somebody else holds the row or the table for too long
    asyncpg.QueryCanceledError,  # the statement took too long
    asyncpg.IdleInTransactionSessionTimeoutError,  # this process stood still within a transaction
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
# 10,000 tasks took 19 s instead of 1. With it there is one good plan, whatever a table holds, so a session keeps it:
# to plan each time costs as much as to execute.
PLANNER = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}
# What sessions behind a pooler have: workers of the release before refuse any that keep plans. The next release may
# give them PLANNER as it is.
POOLED_PLANNER = PLANNER | {"plan_cache_mode": "force_custom_plan"}

SECONDS = 10.0  # to connect, to get a connection from a pool, and of a statement, unless it is known to be long
LONG_SECONDS = 60.0  # of a statement that is known to be long, such as the retry of a job of a million tasks
PROBE_SECONDS = 2.0  # for the server to answer when asked whether it is there
_TRUSTED_SECONDS = 2.0  # a connection that was idle for longer is probed before it is used
_CLOSE_SECONDS = 2.0  # to close connections in good order

_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # seconds, seconds, probes: tcp(7)


def time_limits(seconds: float = SECONDS) -> dict[str, str]:
    """What a session may do to others: settings of the server, in milliseconds.

    https://www.postgresql.org/docs/current/runtime-config-client.html
    """
    limits = {
        "idle_in_transaction_session_timeout": seconds,  # a frozen process holds its locks for this long
        "lock_timeout": 0.8 * seconds,  # less than the client waits, so that the error says what it was
        "statement_timeout": max(LONG_SECONDS, seconds),  # whatever the client does
    }
    return {name: str(round(1000 * value)) for name, value in limits.items()}


def _limits(seconds: float) -> dict[str, str]:
    """Those of a session on a connection of its own; keepalives in seconds."""
    return time_limits(seconds) | {
        "tcp_user_timeout": str(round(2000 * seconds)),
        "tcp_keepalives_idle": str(_KEEPALIVE["TCP_KEEPIDLE"]),
        "tcp_keepalives_interval": str(_KEEPALIVE["TCP_KEEPINTVL"]),
        "tcp_keepalives_count": str(_KEEPALIVE["TCP_KEEPCNT"]),
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


# Arrays by OID, with the name and OID of their elements, which asyncpg knows. Those of built-in types never change
# (https://github.com/postgres/postgres/blob/master/src/include/catalog/pg_type.dat).
_ARRAYS = {
    1001: ("bytea", 17),
    1005: ("int2", 21),
    1007: ("int4", 23),
    1016: ("int8", 20),
    1022: ("float8", 701),
    1182: ("date", 1082),
    1185: ("timestamptz", 1184),
    271: ("xid8", 5069),
    2951: ("uuid", 2950),
    3807: ("jsonb", 3802),
}
_NOTHING_SENT = SimpleNamespace(name="none")


def _describe_array(oid: int) -> dict[str, Any]:
    """What the server would say of it."""
    name, element = _ARRAYS[oid]
    present = {"oid": oid, "ns": "pg_catalog", "name": f"_{name}", "kind": b"b", "elemtype": element, "elemdelim": ","}
    return present | dict.fromkeys(("basetype", "range_subtype", "attrtypoids", "attrnames"))


class GatedConnection(asyncpg.Connection):
    """A connection whose effects pass the gate: statements that stand alone, and COMMIT for those of a transaction."""

    idle_since = 0.0  # the loop's time
    _transaction = effects.Transaction("")

    async def _introspect_types(self, typeoids: Iterable[int], timeout: float | None) -> tuple[Any, Any]:
        """asyncpg asks the server about each type that is new to it, which takes 20 ms: not about known arrays."""
        if all(oid in _ARRAYS for oid in typeoids):
            return [_describe_array(oid) for oid in typeoids], _NOTHING_SENT
        found: tuple[Any, Any] = await super()._introspect_types(typeoids, timeout)  # type: ignore[misc]
        return found

    async def answers(self) -> bool:
        """Whether the server answers on this connection."""
        try:
            await super().execute("SELECT 1", timeout=PROBE_SECONDS)
        except UNAVAILABLE:
            return False
        return True

    async def reset(self, *, timeout: float | None = None) -> None:
        """The pool calls this when the connection comes back."""
        await super().reset(timeout=timeout)
        self.idle_since = asyncio.get_running_loop().time()

    async def close(self, *, timeout: float | None = None) -> None:
        """In good order if the server answers soon, else at once."""
        with suppress(TimeoutError):
            await super().close(timeout=_CLOSE_SECONDS if timeout is None else min(timeout, _CLOSE_SECONDS))

    async def _cancel(self, waiter: Any, cancel_waiter: Any = None) -> None:
        """asyncpg asks the server to cancel a statement that took too long; who waits for that has waited enough."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PROBE_SECONDS / 2):
                await super()._cancel(waiter, cancel_waiter)  # type: ignore[misc]
        if cancel_waiter is not None and not cancel_waiter.done() and not self.is_closed():
            self.terminate()

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
        try:
            with self._passing(query):
                status = await super().execute(query, *args, timeout=timeout)
        finally:
            if query in ("COMMIT;", "ROLLBACK;"):  # as asyncpg says it; a savepoint's end is none
                self._transaction.is_open = False
        if query.startswith("BEGIN"):
            self._transaction = effects.begin()
        return status

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


class Database(MeasuredPool):
    """A pool. Whoever asks for a connection gets one on which the server answers, or a TimeoutError."""

    def __init__(self, way: DatabaseAccess, connections_max: int, connections_min: int, seconds: float) -> None:
        self._seconds = seconds
        super().__init__(
            way,
            min_size=connections_min,
            max_size=connections_max,
            max_queries=50_000,
            max_inactive_connection_lifetime=300.0,
            connect=_connect,  # type: ignore[arg-type]  # it takes a way instead of a URL
            init=_prepare,
            loop=None,
            connection_class=GatedConnection,
            record_class=asyncpg.Record,
            **_options(seconds, PLANNER),
        )

    async def _acquire(self, timeout: float | None) -> Any:
        async with asyncio.timeout(timeout or self._seconds):
            while True:
                proxy: Any = await super()._acquire(None)
                connection: GatedConnection = proxy._con
                idle = asyncio.get_running_loop().time() - connection.idle_since
                if idle < _TRUSTED_SECONDS or await self._answers(connection):
                    return proxy

    @staticmethod
    async def _answers(connection: GatedConnection) -> bool:
        """Whether it does; if not, or if nobody waits for it any more, the connection is gone."""
        try:
            answers = await connection.answers()
        except BaseException:
            connection.terminate()
            raise
        if not answers:
            connection.terminate()
        return answers

    async def close(self) -> None:
        """Close all connections, or drop those that don't close soon."""
        with suppress(*UNAVAILABLE):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await super().close()


def _options(seconds: float, settings: dict[str, str]) -> dict[str, Any]:
    """How to open a connection, by keyword of asyncpg.connect."""
    return {"timeout": seconds, "command_timeout": seconds, "server_settings": _limits(seconds) | settings}


async def _connect(way: DatabaseAccess, **options: Any) -> Any:
    if way.pooled:  # sessions are the pooler's, and have what the user has (services/engine/roles.py)
        del options["server_settings"]
    connection: Any = await way.connect(**options)
    _keep_alive(connection._transport.get_extra_info("socket"), options["timeout"])
    connection.idle_since = asyncio.get_running_loop().time()
    return connection


def _keep_alive(transport_socket: Any, seconds: float) -> None:
    """Have the system end the connection when the other side is gone without a word: after 30 s, 20 with data sent."""
    if transport_socket.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with socket.socket(fileno=os.dup(transport_socket.fileno())) as same:  # uvloop's own can't set options
        same.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (_KEEPALIVE | {"TCP_USER_TIMEOUT": round(2000 * seconds)}).items():
            if hasattr(socket, name):  # not all systems have each
                same.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def connect_database(
    place: Place, connections_max: int = 10, connections_min: int = 0, *, seconds: float = SECONDS
) -> Database:
    """Open a pool. It connects only when needed, so that a service can start before its database.

    A statement takes `seconds` at most unless its caller names a `timeout`, of LONG_SECONDS at most.
    """
    return await Database(access(place), connections_max, connections_min, seconds)


_SESSION = "SELECT name, setting FROM pg_settings WHERE name = ANY($1)"


class UnsetSessions(UnknownSchema):
    """The sessions that a pooler gives lack what the services' statements need."""


async def check_pooled_sessions(database: Database) -> None:
    """Raises UnsetSessions if the pooler's sessions don't plan as the engine's statements need it.

    Whether they keep their plans is a matter of speed alone.
    """
    needed = [name for name in PLANNER if name != "plan_cache_mode"]
    found = {row["name"]: row["setting"] for row in await database.fetch(_SESSION, needed)}
    if wrong := sorted(name for name in needed if found.get(name) != PLANNER[name]):
        raise UnsetSessions(
            f"sessions of this user have {wrong[0]} = {found.get(wrong[0])} instead of {PLANNER[wrong[0]]}: run "
            "`python -m services.engine.migrate`, which sets it for the members of piecework_worker, and then have the "
            "pooler open new connections (RECONNECT)"
        )


async def notify(connection: Connection, channel: str, payload: str = "") -> None:
    """Wake the channel's listeners: at once, or when the connection's transaction commits."""
    await connection.execute("SELECT pg_notify($1, $2)", channel, payload)


async def connect_alone(place: Place, seconds: float = SECONDS, **options: Any) -> GatedConnection:
    """Open a connection outside any pool, as to LISTEN on; its planner is as the server has it.

    `options` of asyncpg.connect override those that limit statements.
    """
    options = _options(seconds, {}) | options
    connection: GatedConnection = await _connect(access(place), connection_class=GatedConnection, **options)
    return connection


def storable(text: str) -> str:
    """The text without what Postgres does not store: NUL characters and lone surrogates."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
