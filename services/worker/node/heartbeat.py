"""Keeps the worker's lease, and acts on the database's answers.

While the database can't be reached, attempts run on: only its answer ends them. If nobody else reaches it either, their
tasks can't be given away; and if others do, what this worker reports is fenced by the numbers of its attempts. But
then a task may run twice at the same time. Where that does harm, `cut_off_seconds` ends the attempts of processors that
do not say that they are idempotent.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import NoReturn
from uuid import UUID

import structlog

from services.engine import transitions, workers
from services.platform.database import Database
from services.worker.node.bundles import Bundles
from services.worker.node.metrics import SLOTS
from services.worker.node.outage import Outage, in_time
from services.worker.node.slots import Slots

log = structlog.get_logger()


class LeaseLost(Exception):
    """The database says that this worker has lost its tasks."""


class Heartbeat:
    """Sends heartbeats until the lease is lost. While the database says draining, each one calls `drain`, with whether
    the instance is to be replaced.

    `outage` is the node's view of its database. A pause, a try and the pause after it are together shorter than the
    lease, so that the worker is back in time when the database is.
    """

    def __init__(
        self,
        *,
        database: Database,
        worker_id: UUID,
        heartbeat_seconds: float,
        lease_seconds: float,
        cut_off_seconds: float | None = None,
        bundles: Bundles,
        slots: Slots,
        drain: Callable[[bool], None],
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._pause_seconds = min(heartbeat_seconds, lease_seconds / 3)
        self._try_seconds = lease_seconds / 6  # as long as a heartbeat's pause, by default
        self.outage = Outage("database", self._try_seconds, period_seconds=self._pause_seconds)
        self._cut_off_seconds = cut_off_seconds
        self._bundles = bundles
        self._slots = slots
        self._drain = drain

    async def run(self) -> NoReturn:
        """Raises LeaseLost."""
        while True:
            await self._beat()
            await asyncio.sleep(self._pause_seconds)

    async def _beat(self) -> None:
        """Try until the database answers: each try has its own time, and after a failure a new connection."""
        while True:
            held = self._bundles.ids
            try:
                busy = self._slots.busy
                SLOTS.labels("busy").set(busy)
                SLOTS.labels("free").set(self._slots.count - busy)
                beat = workers.heartbeat(self._database, self._worker_id, busy)
                answer = await in_time(beat, self._try_seconds)
                self.outage.passed()
                await self._obey(answer, held)
                return
            except LeaseLost:
                raise
            except Exception as error:
                await self._database.expire_connections()
                self._keep_from_running_twice()
                await self.outage.failed(error)

    def _keep_from_running_twice(self) -> None:
        if self._cut_off_seconds is not None and self.outage.seconds >= self._cut_off_seconds:
            self._slots.release_waiting()
            self._slots.kill(self._bundles.not_idempotent)

    async def _obey(self, answer: workers.Heartbeat, held: frozenset[UUID]) -> None:
        """`held` are the bundles held before the heartbeat: the answer may not include later claims."""
        if answer.state == "lost":
            raise LeaseLost("the database has given this worker up")
        if gone := (held & self._bundles.ids) - answer.bundle_ids:
            log.info("bundles withdrawn", bundles=len(gone))
            self._bundles.drop(gone)
            self._slots.kill(gone)
        for bundle_id, indexes in answer.cancelled.items():
            self._slots.cancel(bundle_id, indexes)
        for bundle_id, indexes in answer.followed.items():
            self._slots.follow(bundle_id, indexes)
        if unknown := answer.bundle_ids - self._bundles.ids - self._bundles.claiming:
            # The reply of their claim was lost. Or they have ended since the heartbeat; then this gives nothing back.
            abandoning = transitions.abandon(self._database, self._worker_id, list(unknown))
            tasks = await in_time(abandoning, self._try_seconds)
            log.log(logging.WARNING if tasks else logging.DEBUG, "unknown bundles abandoned", tasks=tasks)
        if answer.state == "draining":
            self._drain(answer.replace_instance)
