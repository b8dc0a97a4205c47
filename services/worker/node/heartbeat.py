"""Keeps the worker's lease, and acts on the database's answers."""

import asyncio
import logging
from collections.abc import Callable
from typing import NoReturn
from uuid import UUID

import structlog

from services.engine import transitions, workers
from services.platform.database import Database
from services.worker.node.bundles import Bundles
from services.worker.node.outage import Outage
from services.worker.node.slots import Slots

log = structlog.get_logger()

_LEASE_USED = 0.8  # of the lease: after that, the worker stops itself before others take its tasks


class LeaseLost(Exception):
    """This worker has lost its tasks, or is about to."""


class Heartbeat:
    """Sends heartbeats until the lease is lost. While the database says draining, each one calls `drain`."""

    def __init__(
        self,
        *,
        database: Database,
        worker_id: UUID,
        heartbeat_seconds: float,
        lease_seconds: float,
        bundles: Bundles,
        slots: Slots,
        drain: Callable[[], None],
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._pause_seconds = min(heartbeat_seconds, lease_seconds / 3)
        self._lease_seconds = _LEASE_USED * lease_seconds
        self._bundles = bundles
        self._slots = slots
        self._drain = drain
        self._outage = Outage("heartbeat", self._pause_seconds)
        self._beaten_at = asyncio.get_running_loop().time()  # monotonic, from before the request

    async def run(self) -> NoReturn:
        """Raises LeaseLost."""
        while True:
            await self._beat_in_time()
            await asyncio.sleep(self._pause_seconds)

    async def _beat_in_time(self) -> None:
        beat = asyncio.ensure_future(self._beat())
        deadline = self._beaten_at + self._lease_seconds
        try:
            done, _ = await asyncio.wait({beat}, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        finally:
            beat.cancel()  # without waiting: a hanging connection must not keep the tasks running
        if not done:
            raise LeaseLost(f"no heartbeat reached the database for {self._lease_seconds:g} s")
        beat.result()

    async def _beat(self) -> None:
        """Try until one heartbeat succeeds, or until cancelled: asyncpg may replace CancelledError by its own error."""
        this = asyncio.current_task()
        assert this is not None
        while not this.cancelling():
            asked_at, held = asyncio.get_running_loop().time(), self._bundles.ids
            try:
                answer = await workers.heartbeat(self._database, self._worker_id, self._slots.busy)
                self._beaten_at = asked_at
                self._outage.passed()
                await self._obey(answer, held)
                return
            except LeaseLost:
                raise
            except Exception as error:
                await self._outage.failed(error)

    async def _obey(self, answer: workers.Heartbeat, held: frozenset[UUID]) -> None:
        """`held` are the bundles held before the heartbeat: the answer may not include later claims."""
        if answer.state == "lost":
            raise LeaseLost("the database has given this worker up")
        if gone := (held & self._bundles.ids) - answer.bundle_ids:
            log.info("bundles withdrawn", bundles=len(gone))
            self._bundles.drop(gone)
            self._slots.kill(gone)
        if unknown := answer.bundle_ids - self._bundles.ids - self._bundles.claiming:
            # The reply of their claim was lost. Or they have ended since the heartbeat; then this gives nothing back.
            tasks = await transitions.abandon(self._database, self._worker_id, list(unknown))
            log.log(logging.WARNING if tasks else logging.DEBUG, "unknown bundles abandoned", tasks=tasks)
        if answer.state == "draining":
            self._drain()
