"""The slots of a node: each runs one task after the other, in its own child processes.

While a task runs, the input of the next is fetched and the output of the last is uploaded. A bundle that asks for a
part of the node has that to itself meanwhile.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import structlog

from services.contract.message import CROWDED_MAX
from services.contract.resources import Needs
from services.contract.states import ReportedOutcome
from services.contract.task_error import describe
from services.engine.attempt import AttemptReport, ClaimedTask
from services.platform import tracing
from services.worker.node.bundles import Bundle, Bundles
from services.worker.node.completer import Completer
from services.worker.node.drain import Drain
from services.worker.node.pace import Pace
from services.worker.node.quarantine import Quarantine
from services.worker.node.room import Part, Room
from services.worker.node.sessions import Sessions
from services.worker.node.storage import Storage
from services.worker.task.attempt import Equipment, release, run_attempt
from services.worker.task.node_health import is_of_node
from services.worker.task.turn import Turn
from services.worker.task.warm_children import WarmChildren

log = structlog.get_logger()

_OPEN_MAX = 3  # attempts per slot: one is about to run, one runs, one has run
_WAIT_BUNDLES_MAX = 5  # a task that waits as long as this many bundles like its own should take is released
_IDLE_SECONDS = 60.0  # that a child is kept without a job


class Slots:
    """Runs what `bundles` holds and reports it to the completer.

    `pace` learns how long tasks take here, `quarantine` whether they can run here at all. `progress` is set whenever
    tasks have ended. A task that waits much longer than `bundle_seconds`, or what its bundle should take by that pace,
    is released: other workers may be free.
    """

    def __init__(
        self,
        count: int,
        bundle_seconds: float,
        equipment: Equipment,
        bundles: Bundles,
        completer: Completer,
        quarantine: Quarantine,
    ) -> None:
        self.count = count
        self.pace = Pace()
        self.progress = asyncio.Event()
        self._bundle_seconds = bundle_seconds
        self._equipment = equipment
        self._bundles = bundles
        self._completer = completer
        self._quarantine = quarantine
        self._storage = Storage(equipment.s3, equipment.layout.bucket, self.progress.set)
        self._open: dict[asyncio.Task[AttemptReport], tuple[Bundle, Turn]] = {}
        self._room = Room(equipment.hardware, count, lambda: WarmChildren(equipment.cells))
        self._entrance = asyncio.Semaphore(count)  # of attempts that do not run yet
        self._sessions = Sessions(
            count,
            equipment,
            bundles,
            self._room.free,
            self.pace,
            self._report,
            self._note,
            self._run_alone,
            self.progress.set,
        )

    @property
    def busy(self) -> int:
        """The number of slots in use, or closed because something beside them takes their place."""
        in_slots = sum(bundle.part is None for bundle, _ in self._open.values())
        return min(self.count, in_slots + self._sessions.busy + self.count - self.open)

    @property
    def open(self) -> int:
        """The number of slots that tasks which ask for nothing use."""
        return self._room.open

    @property
    def offered(self) -> int:
        """The number of slots that such tasks may use from now on."""
        return self._room.offered

    @property
    def can_work(self) -> bool:
        """Whether attempts can reach what they need; `progress` is set when they can again."""
        return self._storage.reached

    @property
    def wanted(self) -> int:
        """The number of attempts that hold or wait for a slot; more than the slots if some have started ahead."""
        attempts = sum(turn.phase != "after" for bundle, turn in self._open.values() if bundle.part is None)
        return attempts + self._sessions.wanted

    @property
    def longest_running_seconds(self) -> float:
        """Of those in slots."""
        in_slots = [turn.working_seconds for bundle, turn in self._open.values() if bundle.part is None]
        return max([*in_slots, self._sessions.longest_running_seconds])

    def may_hold(self, needs: Needs) -> bool:
        """Whether this node ever has room for such a bundle."""
        return self._room.may_hold(needs)

    def room_for(self, needs: Needs) -> int:
        """For how many such bundles there is room now."""
        return self._room.count(needs, self._in_slots)

    def take(self, needs: Needs, *, reserved: bool = False) -> Part | None:
        """A part of the node for such a bundle, if there is room now: `run_in_part` or `give_back` comes next."""
        return self._room.take(needs, self._in_slots, reserved=reserved)

    def reserve(self, needs: Needs | None) -> None:
        """Keep room for such a bundle from now on; None: for none."""
        self._room.reserve(needs)

    def has_reserved(self, needs: Needs) -> bool:
        """Whether there is room now for the bundle for which it was reserved."""
        return self._room.has_reserved(needs, self._in_slots)

    def give_back(self, part: Part) -> None:
        self._room.give_back(part)
        self.progress.set()

    @property
    def _in_slots(self) -> int:
        return self.wanted + self._bundles.tasks_waiting

    def run_in_part(self, bundle: Bundle, part: Part) -> None:
        """Run the bundle's tasks one after another, and give the part back."""
        self._group.create_task(self._run_in_part(bundle, part))

    async def _run_in_part(self, bundle: Bundle, part: Part) -> None:
        own: asyncio.LifoQueue[WarmChildren] = asyncio.LifoQueue()
        own.put_nowait(part.children)
        share = self._equipment.share.of_part(bundle.stage, part.size, part.gpus)
        equipment = replace(self._equipment, share=share)
        try:
            while tasks := self._bundles.take_of(bundle):
                await self._work(equipment, bundle, tasks, own, lambda: None)
        finally:
            self.give_back(part)

    async def run(self) -> None:
        """Run until cancelled; then the running attempts are killed and not reported."""
        slots = self._room.all_children
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._release_stale())
                group.create_task(_end_idle_children(slots))
                group.create_task(self._storage.run())
                group.create_task(self._sessions.run(group))
                for _ in range(_OPEN_MAX * self.count):
                    group.create_task(self._serve())
        finally:
            for slot in slots:
                await slot.close()

    async def end(self, drain: Drain) -> None:
        """Release waiting tasks; give running ones the drain's time to end, then kill and release them too."""
        self.release_waiting()
        try:
            async with drain.limit():
                await self._idle()
        except TimeoutError:
            self.kill()
            await self._idle()

    def kill(self, bundle_ids: Collection[UUID] | None = None) -> None:
        """Kill the running attempts of these bundles (None: of all)."""
        for attempt, (bundle, _) in self._open.items():
            if bundle_ids is None or bundle.bundle_id in bundle_ids:
                attempt.cancel()
        self._sessions.kill(bundle_ids)

    def cancel(self, bundle_id: UUID, indexes: Collection[int]) -> None:
        """End these tasks of a bundle, which were cancelled one by one: what is reported of them changes nothing."""
        if (bundle := self._bundles.get(bundle_id)) is None:
            return
        if waiting := self._bundles.take_out(bundle, indexes):
            self._completer.report(bundle, [_finished(task, "released") for task in waiting])
        for index in bundle.running.keys() & set(indexes):
            bundle.running[index].cancel()
        self._sessions.cancel(bundle_id, indexes)

    def follow(self, bundle_id: UUID, indexes: Collection[int]) -> None:
        """Put the logs of these tasks while they run. Those of sessions come at their end."""
        if (bundle := self._bundles.get(bundle_id)) is not None:
            for index in bundle.running.keys() & set(indexes):
                self._open[bundle.running[index]][1].follow()

    def release_waiting(self, is_stale: Callable[[Bundle], bool] = lambda _: True) -> int:
        """Give back the tasks of such bundles that wait for a slot; returns how many."""
        self._sessions.take_back(is_stale)
        taken = self._bundles.take_back(is_stale)
        self._sessions.wake()
        for bundle, tasks in taken:
            self._completer.report(bundle, [_finished(task, "released") for task in tasks])
        ahead = [
            attempt for attempt, (bundle, turn) in self._open.items() if turn.phase == "waiting" and is_stale(bundle)
        ]
        for attempt in ahead:
            attempt.cancel()
        return sum(len(tasks) for _, tasks in taken) + len(ahead)

    async def _idle(self) -> None:
        while self._open or self._sessions.any_open:
            self.progress.clear()
            await self.progress.wait()

    async def _release_stale(self) -> None:
        while True:
            await asyncio.sleep(self._bundle_seconds)
            if count := self.release_waiting(self._is_stale):
                log.info("waiting tasks released", tasks=count)

    def _is_stale(self, bundle: Bundle) -> bool:
        """Whether it takes much longer than it should, by the pace of its tasks here, or else than most bundles."""
        task_seconds = self.pace.seconds_of((bundle.stage.job_id, bundle.stage.stage))
        seconds_max = wait_seconds_max(self._bundle_seconds, task_seconds, bundle.count)
        return time.monotonic() - bundle.claimed_at > seconds_max

    async def _serve(self) -> None:
        while True:
            await self._entrance.acquire()
            bundle, tasks = await self._bundles.take()
            await self._work(self._equipment, bundle, tasks, self._room.free, self._entrance.release)

    async def _work(
        self,
        equipment: Equipment,
        bundle: Bundle,
        tasks: Sequence[ClaimedTask],
        free: asyncio.LifoQueue[WarmChildren],
        started: Callable[[], None],
    ) -> None:
        """Run a task (or no-ops), in one of the `free` slots. `started` is called as soon as it has one, or ends."""
        if bundle.stage.spec.builtin == "noop":
            began = time.monotonic()
            finished = [_finished(task, "succeeded") for task in tasks]
            await asyncio.sleep(0)  # a run of no-ops alone would never yield
            seconds = time.monotonic() - began
            started()
        else:
            finished = [await self._attempt(equipment, bundle, tasks[0], free, started)]
            seconds = finished[0].run_seconds
        if finished[0].outcome == "succeeded":
            self.pace.learn((bundle.stage.job_id, bundle.stage.stage), seconds, len(tasks))
        self._report(bundle, finished)

    async def _run_alone(self, bundle: Bundle, children: WarmChildren) -> None:
        """Run the next task, of a bundle for sessions, by itself."""
        own: asyncio.LifoQueue[WarmChildren] = asyncio.LifoQueue()
        own.put_nowait(children)
        await self._work(self._equipment, bundle, self._bundles.take_next(bundle), own, lambda: None)

    def _report(self, bundle: Bundle, finished: Sequence[AttemptReport]) -> None:
        self._completer.report(bundle, finished)
        self.progress.set()

    def _note(self, finished: AttemptReport, began: float) -> None:
        """What the end of an attempt tells of this node."""
        self._quarantine.note(finished, began)
        self._storage.note(finished.error)

    async def _attempt(
        self,
        equipment: Equipment,
        bundle: Bundle,
        task: ClaimedTask,
        free: asyncio.LifoQueue[WarmChildren],
        started: Callable[[], None],
    ) -> AttemptReport:
        """Run an attempt that can be killed by itself; if killed, it counts as released."""
        turn, began = Turn(free, started, self.progress.set), time.monotonic()
        attempt = asyncio.create_task(run_attempt(equipment, task, bundle.stage, turn))
        self._open[attempt] = bundle, turn
        bundle.running[task.index] = attempt
        try:
            await asyncio.wait({attempt})
        finally:
            attempt.cancel()
            await asyncio.wait({attempt})
            del self._open[attempt], bundle.running[task.index]
            if turn.phase in ("before", "waiting"):
                started()
        if attempt.cancelled():
            released = _finished(task, "released", turn.working_seconds)
            released.fetch_seconds = min(released.run_seconds, turn.fetch_seconds)
            return released
        finished = self._broken(task, turn, error) if (error := attempt.exception()) else attempt.result()
        self._note(finished, began)
        write = log.debug if finished.outcome == "succeeded" else log.info
        with tracing.within(bundle.stage.traceparent):
            seconds = round(finished.run_seconds, 3)
            write("attempt ended", **_names(task), outcome=finished.outcome, seconds=seconds, error=finished.error)
        return finished

    def _broken(self, task: ClaimedTask, turn: Turn, error: BaseException) -> AttemptReport:
        """The report of an attempt that made none itself."""
        log.error("attempt broke", **_names(task), exc_info=error)
        failed = _finished(task, "failed", turn.working_seconds)
        if is_of_node(error):
            release(failed, describe(error), self._equipment.losses_max)
        else:
            failed.error = {"type": "exception", "message": f"the worker broke: {describe(error)}"}
        return failed


async def _end_idle_children(slots: Sequence[WarmChildren]) -> None:
    while True:
        await asyncio.sleep(_IDLE_SECONDS / 5)
        for slot in slots:
            await slot.end_idle(_IDLE_SECONDS)


def wait_seconds_max(bundle_seconds: float, task_seconds: float | None, tasks: int) -> float:
    """How long tasks of a bundle may wait for a slot, of this number and pace; where many jobs share few slots, longer.

    `bundle_seconds` is how long most bundles take.
    """
    expected = max(bundle_seconds, (task_seconds or 0.0) * tasks)
    return _WAIT_BUNDLES_MAX * min(expected, CROWDED_MAX * bundle_seconds)


def _finished(task: ClaimedTask, outcome: ReportedOutcome, seconds: float = 0.0) -> AttemptReport:
    return AttemptReport(task.job_id, task.stage, task.index, task.attempt, outcome, seconds)


def _names(task: ClaimedTask) -> dict[str, Any]:
    """The log's fields for an attempt."""
    return {"job": str(task.job_id), "stage": task.stage, "index": task.index, "attempt": task.attempt}
