"""A worker whose tasks are timers: the real receiver, completer and heartbeat around slots that only wait."""

import asyncio
import random
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from bench.scale.load import POOL, Load
from services.contract.resources import Needs
from services.engine import workers
from services.engine.attempt import AttemptReport, ClaimedTask
from services.engine.pools import PoolQueues
from services.platform.database import UNAVAILABLE, Database, new_id
from services.platform.settings import Settings
from services.worker.node.bundles import Bundle, Bundles
from services.worker.node.completer import Completer
from services.worker.node.heartbeat import Heartbeat, LeaseLost
from services.worker.node.pace import Pace
from services.worker.node.receiver import Receiver

_OUTPUT = {"uri": "s3://piecework/jobs/00000000-0000-0000-0000-000000000000/0/123456-1/result.csv", "bytes": 8_388_608}


@dataclass(frozen=True, slots=True)
class Pools:
    """A pool of connections for each kind of statement, so that its CPU and its latency can be told apart."""

    claim: Database
    complete: Database
    heartbeat: Database


class SleepingSlots:
    """Stands in for services.worker.node.slots.Slots. A slot's first task counts as begun some time ago, so that a
    fleet is steady at once."""

    def __init__(self, load: Load, bundles: Bundles, completer: Completer) -> None:
        self.count = load.slots
        self.pace = Pace()
        self.progress = asyncio.Event()
        self._seconds = load.task_seconds / load.speed
        self._bundles = bundles
        self._completer = completer
        self._free = asyncio.Semaphore(load.slots)
        self._fresh = load.slots
        self._running: dict[asyncio.TimerHandle, tuple[Bundle, float]] = {}

    @property
    def busy(self) -> int:
        return len(self._running)

    @property
    def wanted(self) -> int:
        return self.busy

    @property
    def offered(self) -> int:
        return self.count

    can_work = True

    def reserve(self, needs: Needs | None) -> None:
        """Tasks ask for nothing here."""

    @property
    def longest_running_seconds(self) -> float:
        return time.monotonic() - next((began for _, began in self._running.values()), time.monotonic())

    async def run(self) -> None:
        """Until cancelled; then nothing more ends."""
        try:
            while True:
                await self._free.acquire()
                bundle, [task] = await self._bundles.take()
                self._start(bundle, task)
        finally:
            self.kill()

    def _start(self, bundle: Bundle, task: ClaimedTask) -> None:
        def end() -> None:
            del self._running[timer]
            self._free.release()
            stage = (task.job_id, task.stage)
            self.pace.learn(stage, seconds, 1)
            self._completer.report(
                bundle, [AttemptReport(*stage, task.index, task.attempt, "succeeded", seconds, output=_OUTPUT)]
            )
            self.progress.set()

        seconds = self._seconds * random.uniform(0.5, 1.5)
        rest = random.random() if self._fresh else 1.0
        self._fresh = max(0, self._fresh - 1)
        timer = asyncio.get_running_loop().call_later(rest * seconds, end)
        self._running[timer] = bundle, time.monotonic()

    def kill(self, bundle_ids: Collection[UUID] | None = None) -> None:
        """Nothing of these bundles (of all, if None) ends any more."""
        for timer, (bundle, _) in list(self._running.items()):
            if bundle_ids is None or bundle.bundle_id in bundle_ids:
                timer.cancel()
                del self._running[timer]
                self._free.release()


async def run_node(load: Load, settings: Settings, pools: Pools, sqs: Any, lost: list[UUID]) -> None:
    """One worker, until cancelled; as a real one it registers again when its lease is lost, and that is noted."""
    await asyncio.sleep(random.uniform(0, load.ramp_seconds))
    while True:
        worker_id = new_id()
        try:
            await workers.register_worker(
                pools.heartbeat, worker_id=worker_id, pool=POOL, hostname="", instance_id=None, pid=0, slots=load.slots
            )
        except UNAVAILABLE:  # the database is busy with the others
            await asyncio.sleep(1.0)
            continue
        try:
            await _work(load, settings, pools, sqs, worker_id)
        except* LeaseLost:
            lost.append(worker_id)


async def _work(load: Load, settings: Settings, pools: Pools, sqs: Any, worker_id: UUID) -> None:
    bundles = Bundles()
    completer = Completer(pools.complete, worker_id, bundles)
    slots = SleepingSlots(load, bundles, completer)
    heartbeat = Heartbeat(
        database=pools.heartbeat,
        worker_id=worker_id,
        heartbeat_seconds=settings.heartbeat_seconds,
        lease_seconds=settings.lease_seconds,
        bundles=bundles,
        slots=slots,  # type: ignore[arg-type]
        drain=lambda replace_instance: None,
    )
    receiver = Receiver(
        database=pools.claim,
        database_outage=heartbeat.outage,
        sqs=sqs,
        queues=PoolQueues("", ""),
        worker_id=worker_id,
        wait_seconds=20,
        bundles=bundles,
        slots=slots,  # type: ignore[arg-type]
        completer=completer,
        lacks=lambda stage: None,
    )
    async with asyncio.TaskGroup() as group:
        for part in (receiver, slots, completer, heartbeat):
            group.create_task(part.run())
