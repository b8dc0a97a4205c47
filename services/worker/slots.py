"""The slots of a node: each runs one waiting task after the other, in child processes of its own."""

import asyncio
import time
from collections.abc import Collection
from typing import Any
from uuid import UUID

import structlog

from services.common.lifecycle import ClaimedTask, Finished
from services.worker.attempt import Equipment, run_attempt
from services.worker.bundles import Bundle, Bundles
from services.worker.child.errors import describe
from services.worker.completer import Completer
from services.worker.pace import Pace
from services.worker.warm_children import WarmChildren

log = structlog.get_logger()


class Slots:
    """Runs what `bundles` holds and reports it to the completer.

    `pace` is what tasks were found to take here. `progress` is set
    whenever tasks have ended. A task that had to wait longer than `wait_seconds_max` is released: its bundle was
    expected to take less than it does, and other workers may be free.
    """

    def __init__(
        self, count: int, wait_seconds_max: float, equipment: Equipment, bundles: Bundles, completer: Completer
    ) -> None:
        self.count = count
        self.pace = Pace()
        self.progress = asyncio.Event()
        self._wait_seconds_max = wait_seconds_max
        self._equipment = equipment
        self._bundles = bundles
        self._completer = completer
        self._running: dict[asyncio.Task[Finished], tuple[Bundle, float]] = {}

    @property
    def busy(self) -> int:
        return len(self._running)

    @property
    def longest_running_seconds(self) -> float:
        return time.monotonic() - min((started for _, started in self._running.values()), default=time.monotonic())

    async def run(self) -> None:
        """Until cancelled; then what runs is killed and not reported."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._release_stale())
            for _ in range(self.count):
                group.create_task(self._serve())

    async def end(self, seconds: float) -> None:
        """Release what waits; let what runs end for so many seconds, then kill and release it too."""
        self.release_waiting()
        try:
            async with asyncio.timeout(seconds):
                await self._idle()
        except TimeoutError:
            self.kill()
            await self._idle()

    def kill(self, bundle_ids: Collection[UUID] | None = None) -> None:
        """Kill what runs of these bundles (of all, if None)."""
        for attempt, (bundle, _) in self._running.items():
            if bundle_ids is None or bundle.bundle_id in bundle_ids:
                attempt.cancel()

    def release_waiting(self, waited_seconds: float = 0.0) -> int:
        """Give the tasks back that have waited that long; returns how many."""
        taken = self._bundles.take_back(claimed_before=time.monotonic() - waited_seconds)
        for bundle, tasks in taken:
            self._completer.report(bundle, [_finished(task, "released") for task in tasks])
        return sum(len(tasks) for _, tasks in taken)

    async def _idle(self) -> None:
        while self._running:
            self.progress.clear()
            await self.progress.wait()

    async def _release_stale(self) -> None:
        while True:
            await asyncio.sleep(self._wait_seconds_max / 5)
            if count := self.release_waiting(self._wait_seconds_max):
                log.info("waiting tasks released", tasks=count)

    async def _serve(self) -> None:
        children = WarmChildren()
        try:
            while True:
                bundle, tasks = await self._bundles.take()
                started = time.monotonic()
                if bundle.stage.spec.builtin == "noop":
                    finished = [_finished(task, "succeeded") for task in tasks]
                    await asyncio.sleep(0)  # no-ops alone would never let anything else run
                else:
                    finished = [await self._attempt(bundle, tasks[0], children)]
                stage = (bundle.stage.job_id, bundle.stage.stage)
                self.pace.learn(stage, time.monotonic() - started, len(tasks))
                self._completer.report(bundle, finished)
                self.progress.set()
        finally:
            await children.close()

    async def _attempt(self, bundle: Bundle, task: ClaimedTask, children: WarmChildren) -> Finished:
        """Run an attempt so that it can be killed alone; killed, it counts as released."""
        started = time.monotonic()
        attempt = asyncio.create_task(run_attempt(self._equipment, task, bundle.stage, children))
        self._running[attempt] = bundle, started
        try:
            await asyncio.wait({attempt})
        finally:
            attempt.cancel()
            await asyncio.wait({attempt})
            del self._running[attempt]
        if attempt.cancelled():
            return _finished(task, "released", time.monotonic() - started)
        if (error := attempt.exception()) is not None:
            log.error("attempt broke", **_names(task), exc_info=error)
            failed = _finished(task, "failed", time.monotonic() - started)
            failed.error = {"type": "exception", "message": f"the worker broke: {describe(error)}"}
            return failed
        finished = attempt.result()
        if finished.outcome != "succeeded":
            log.info("attempt failed", **_names(task), outcome=finished.outcome, error=finished.error)
        return finished


def _finished(task: ClaimedTask, outcome: str, seconds: float = 0.0) -> Finished:
    return Finished(task.job_id, task.stage, task.index, task.attempt, outcome, seconds)


def _names(task: ClaimedTask) -> dict[str, Any]:
    """What the log calls an attempt."""
    return {"job": str(task.job_id), "stage": task.stage, "index": task.index, "attempt": task.attempt}
