"""Deals the faults of the schedule to the grid."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from asyncpg import Record

from services.engine import workers
from services.engine.errors import Conflict
from services.platform.database import Connection
from tests.storm import aws_proxy, receiver
from tests.storm.database_proxy import Link, cut
from tests.storm.faults import DECK, Fault, deal
from tests.storm.grid import Service, StormGrid
from tests.storm.journal import Journal
from tests.storm.plan import Plan

_REQUESTS_MAX = 12  # that one fault of S3 or SQS strikes

_POLL_SECONDS = 0.05

_LIVE_WORKERS = "SELECT worker_id FROM workers WHERE state = 'active' ORDER BY worker_id"

_SESSIONS = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND usename <> current_user AND state = 'idle' ORDER BY pid"""

_LAST_PARTITION = """
    SELECT 'DROP TABLE ' || max(oid::regclass::text) FROM pg_class
    WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'attempts'::regclass)
      AND pg_get_expr(relpartbound, oid) <> 'DEFAULT'
      AND oid::regclass::text > to_char(now() + interval '1 month', '"attempts_"YYYY_MM')"""

T = TypeVar("T")


class Chaos:
    """`blow` until `calm` is called. `outages` are the seconds for which the database was away each time."""

    def __init__(self, grid: StormGrid, plan: Plan, journal: Journal) -> None:
        self.outages: list[float] = []
        self._grid = grid
        self._plan = plan
        self._journal = journal
        self._database = asyncio.Lock()
        self._months = asyncio.Lock()
        self._over = asyncio.Event()
        self.first_deck_dealt = asyncio.Event()  # so every kind has been dealt
        self._strikes: dict[str, Callable[[Fault], Coroutine[Any, Any, None]]] = {
            "worker killed": self._kill_worker,
            "worker frozen": self._freeze_worker,
            "worker told to stop": self._stop_worker,
            "worker drained": self._drain_worker,
            "worker's disk lost": self._lose_disk,
            "scheduler killed": self._kill_scheduler,
            "scheduler frozen": self._freeze_scheduler,
            "database killed": self._kill_database,
            "database away for longer than a lease": self._take_database_away,
            "session frozen": self._freeze_session,
            "all connections cut": self._cut_all,
            "some connections cut": self._cut_some,
            "replies cut off": self._cut_replies,
            "connections stalled": self._stall,
            "connections silent for good": self._silence,
            "month begun beside a reader": self._begin_month,
            "queue purged": self._purge,
            receiver.KIND: self._refuse_webhook,
            **dict.fromkeys(aws_proxy.KINDS, self._arm),
        }

    async def blow(self) -> None:
        """Faults at their times, those that last beside each other: a deck, and more for `storm_seconds` at most."""
        started, plan = time.monotonic(), self._plan
        async with asyncio.TaskGroup() as lasting:
            for fault in deal(plan.seed, plan.gap_seconds):
                if fault.at > plan.storm_seconds and self.first_deck_dealt.is_set():
                    break
                await self._pause(started + fault.at - time.monotonic())
                if self._over.is_set():
                    break
                self._journal.deal(fault)
                lasting.create_task(self._strikes[fault.kind](fault))
                if fault.number == DECK.total():
                    self.first_deck_dealt.set()

    def calm(self) -> None:
        """No more faults; those that last come to their end at once."""
        self._over.set()

    async def _pause(self, seconds: float) -> None:
        """Wait this many seconds, unless the storm is over before."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), max(0.0, seconds))

    async def _victims(self, find: Callable[[], list[T]]) -> list[T]:
        """What a fault may strike, as soon as there is anything; nothing if the storm is over before."""
        while not (found := find()) and not self._over.is_set():
            await self._pause(_POLL_SECONDS)
        return found

    async def _signal(self, fault: Fault, services: list[Service], number: int) -> Service | None:
        """Send a signal to one of those that run."""
        running = await self._victims(lambda: [service for service in services if service.alive])
        if not running:
            return None
        victim = running[int(fault.draw * len(running))]
        victim.signal(number)
        self._journal.strike(fault.kind, name=victim.name, pid=victim.pid)
        return victim

    async def _kill_worker(self, fault: Fault) -> None:
        await self._signal(fault, self._grid.workers, signal.SIGKILL)

    async def _stop_worker(self, fault: Fault) -> None:
        await self._signal(fault, self._grid.workers, signal.SIGTERM)

    async def _kill_scheduler(self, fault: Fault) -> None:
        await self._signal(fault, self._grid.schedulers, signal.SIGKILL)

    async def _freeze_worker(self, fault: Fault) -> None:
        """Longer than its lease: it wakes up when others have its tasks."""
        await self._freeze(fault, self._grid.workers)

    async def _freeze_scheduler(self, fault: Fault) -> None:
        await self._freeze(fault, self._grid.schedulers)

    async def _freeze(self, fault: Fault, services: list[Service]) -> None:
        if victim := await self._signal(fault, services, signal.SIGSTOP):
            await self._pause(self._plan.lease_seconds * (1.2 + fault.force))
            victim.signal(signal.SIGCONT)

    async def _drain_worker(self, fault: Fault) -> None:
        """By the grid's order, not by a signal."""
        live: list[Record] = []
        while not live and not self._over.is_set():
            live = await self._grid.ask(lambda database: database.fetch(_LIVE_WORKERS))
        if live:
            victim = live[int(fault.draw * len(live))]["worker_id"]
            with suppress(Conflict):  # it has ended meanwhile
                await self._grid.ask(lambda database: workers.drain_worker(database, victim))
            self._journal.strike(fault.kind, worker=victim)

    async def _lose_disk(self, fault: Fault) -> None:
        """A worker's scratch directory is gone, and can't be made again for a while."""
        victim = self._grid.workers[int(fault.draw * len(self._grid.workers))]
        with suppress(FileExistsError, IsADirectoryError):  # the worker was faster, or another fault still lasts
            shutil.rmtree(victim.scratch, ignore_errors=True)
            victim.scratch.touch(exist_ok=False)
        self._journal.strike(fault.kind, name=victim.name)
        await self._pause(self._plan.lease_seconds * (0.5 + fault.force))
        with suppress(FileNotFoundError, IsADirectoryError):
            victim.scratch.unlink()

    async def _kill_database(self, fault: Fault) -> None:
        """With all its backends; it recovers on the same data."""
        await self._outage(fault, fault.force * self._plan.lease_seconds / 4)

    async def _take_database_away(self, fault: Fault) -> None:
        await self._outage(fault, self._plan.lease_seconds * (1.2 + fault.force / 2))

    async def _outage(self, fault: Fault, seconds: float) -> None:
        async with self._database:
            killed = time.monotonic()
            await asyncio.to_thread(self._grid.postgres.kill)
            self._journal.strike(fault.kind)
            await self._pause(seconds)
            await asyncio.to_thread(self._grid.postgres.start)
            self.outages.append(time.monotonic() - killed)
            self._journal.note("database back", outage=round(self.outages[-1], 3))

    async def _freeze_session(self, fault: Fault) -> None:
        """A process of the server stands still, with whatever it has begun meanwhile."""
        sessions: list[Record] = []
        while not sessions and not self._over.is_set():
            sessions = await self._grid.ask(lambda database: database.fetch(_SESSIONS))
        if sessions:
            pid = sessions[int(fault.draw * len(sessions))]["pid"]
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                self._journal.strike(fault.kind, pid=pid)
                await self._pause(self._plan.lease_seconds * (0.5 + fault.force))
                os.kill(pid, signal.SIGCONT)

    async def _begin_month(self, fault: Fault) -> None:
        """A month's partition is missing, and can't be made while a long reader holds the table."""

        async def read(connection: Connection) -> None:
            if drop := await connection.fetchval(_LAST_PARTITION):  # None: it has not been made again yet
                await connection.execute(drop)
            async with connection.transaction():
                await connection.execute("SELECT FROM attempts LIMIT 1")
                self._journal.strike(fault.kind)
                await self._signal(fault, self._grid.schedulers, signal.SIGTERM)  # the next one makes it as it starts
                await self._pause(self._plan.lease_seconds * (0.5 + fault.force))

        async with self._months:
            await self._grid.ask(read)

    async def _links(self, fault: Fault, share: float) -> list[Link]:
        """About that share of the connections to the database."""
        links = await self._victims(lambda: self._grid.database_proxy.choose(share, fault.draw))
        self._journal.strike(fault.kind, len(links))
        return links

    async def _cut_all(self, fault: Fault) -> None:
        cut(await self._links(fault, 1.0))

    async def _cut_some(self, fault: Fault) -> None:
        cut(await self._links(fault, fault.force / 2))

    async def _cut_replies(self, fault: Fault) -> None:
        """What is asked next is done, and nobody learns of it."""
        for link in await self._links(fault, fault.force / 2):
            link.next_reply_is_lost = True

    async def _stall(self, fault: Fault) -> None:
        """Nothing comes through, and nobody is told."""
        links = await self._links(fault, fault.force / 4)
        for link in links:
            link.flowing.clear()
        await self._pause(self._plan.lease_seconds * (0.5 + fault.force))
        cut(links)

    async def _silence(self, fault: Fault) -> None:
        """As before, but nobody ever ends them; new connections work."""
        for link in await self._links(fault, fault.force / 2):
            link.flowing.clear()

    async def _arm(self, fault: Fault) -> None:
        self._grid.aws_proxy.arm(fault.kind, 1 + int(fault.force * _REQUESTS_MAX))

    async def _purge(self, fault: Fault) -> None:
        await self._grid.aws.sqs.purge_queue(QueueUrl=self._grid.queue_url)
        self._journal.strike(fault.kind)

    async def _refuse_webhook(self, fault: Fault) -> None:
        self._grid.receiver.arm()
