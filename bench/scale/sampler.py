"""What Postgres itself says while the load runs: progress, waits, CPU by kind of statement, sizes, dead rows."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psutil

from services.engine.logins import LOGINS
from services.platform.database import Database

LOOK_SECONDS = 0.1
ROUND_SECONDS = 5.0
TABLES = ("tasks", "bundles", "workers", "stage_counters", "attempts", "worker_minutes")

_PROGRESS = """
    SELECT coalesce(sum(succeeded), 0)::bigint AS succeeded, coalesce(sum(running), 0)::bigint AS running,
        coalesce(sum(queued), 0)::bigint AS queued, coalesce(sum(ready), 0)::bigint AS ready
    FROM stage_counters"""

# One row for a session at work: what it is for and what it waits for, its client aside.
_WAITS = """
    SELECT pid, application_name AS name, coalesce(wait_event_type || ': ' || wait_event, 'running') AS wait
    FROM pg_stat_activity
    WHERE state = 'active' AND wait_event_type IS DISTINCT FROM 'Client'
      AND pid <> pg_backend_pid() AND datname = current_database()"""

_SIZES = """
    SELECT regexp_replace(relname, '_[0-9]{4}_[0-9]{2}$', '') AS table,
        sum(pg_table_size(relid))::bigint AS bytes, sum(pg_indexes_size(relid))::bigint AS index_bytes,
        sum(n_live_tup)::bigint AS live, sum(n_dead_tup)::bigint AS dead, sum(n_tup_ins)::bigint AS inserts,
        sum(n_tup_upd)::bigint AS updates, sum(n_tup_hot_upd)::bigint AS hot_updates,
        sum(n_tup_del)::bigint AS deletes, sum(autovacuum_count)::bigint AS vacuums
    FROM pg_stat_user_tables GROUP BY 1"""

# Of the workers, which have a user of their own.
_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1"

_SERVER = """
    SELECT w.wal_bytes::bigint, w.wal_records, w.wal_fpi, d.xact_commit AS commits,
        d.blks_read, d.blks_hit, d.deadlocks,
        (SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal') AS wal_fsyncs,
        (SELECT num_done FROM pg_stat_checkpointer) AS checkpoints
    FROM pg_stat_wal AS w, pg_stat_database AS d WHERE d.datname = current_database()"""


class Sampler:
    """Looks ten times a second. `waits` of `looks` looks and `rounds` fill while `measuring`."""

    def __init__(self, pool: Database, server_pid: int, generators: Sequence[int]) -> None:
        self.measuring = False
        self.looks = 0
        self.waits: Counter[tuple[str, str]] = Counter()
        self.rounds: list[dict[str, Any]] = []
        self._pool = pool
        self._server = psutil.Process(server_pid)
        self._generators = [psutil.Process(pid) for pid in generators]
        self._cpu: defaultdict[str, float] = defaultdict(float)
        self._names: dict[int, str] = {}
        self._cpu_before: dict[int, float] = {}

    async def run(self) -> None:
        """Run until cancelled."""
        round_at = 0.0
        while True:
            await self._look()
            if self.measuring and time.monotonic() >= round_at:
                round_at = time.monotonic() + ROUND_SECONDS
                await self.round()
            await asyncio.sleep(LOOK_SECONDS)

    async def progress(self) -> dict[str, int]:
        return dict(await self._pool.fetchrow(_PROGRESS) or {})

    async def round(self) -> None:
        """Note the totals of this moment."""
        sizes = await self._pool.fetch(_SIZES)
        self.rounds.append(
            {
                "at": time.monotonic(),
                "progress": await self.progress(),
                "sessions": await self._pool.fetchval(_SESSIONS, LOGINS["worker"]),
                "server": dict(await self._pool.fetchrow(_SERVER) or {}),
                "tables": {row["table"]: dict(row) for row in sizes if row["table"] in TABLES},
                "cpu": self._cpu | {"postgres": self._server_cpu(), "load": sum(map(_seconds, self._generators))},
            }
        )

    async def _look(self) -> None:
        rows = await self._pool.fetch(_WAITS)
        if self.measuring:
            self.looks += 1
            self.waits.update((row["name"], row["wait"]) for row in rows)
        self._names.update((row["pid"], row["name"]) for row in rows)
        for process in self._server.children():
            used = _seconds(process)
            if name := self._names.get(process.pid) or _own_name(process):
                self._cpu[name] += used - self._cpu_before.get(process.pid, 0.0)
                self._cpu_before[process.pid] = used

    def _server_cpu(self) -> float:
        """Of the whole server, with the backends that have ended."""
        times = self._server.cpu_times()
        ended = times.children_user + times.children_system
        return float(ended + _seconds(self._server) + sum(map(_seconds, self._server.children())))


def _own_name(process: psutil.Process) -> str:
    """Of one of the server's own processes, from its title; empty for a session."""
    with suppress(psutil.Error):
        title = " ".join(process.cmdline()).removeprefix("postgres: ")
        return next((name for name in ("autovacuum", "checkpointer", "walwriter", "writer") if name in title), "")
    return ""


def _seconds(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0
