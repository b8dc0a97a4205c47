"""The bundles that this worker has claimed and not yet reported as done, and their waiting tasks."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from services.engine.attempt import ClaimedTask, StageWork
from services.worker.node.room import Part
from services.worker.session.eligible import is_sent, may_run_in_session


@dataclass(slots=True, eq=False)
class Bundle:
    """A bundle that this worker has claimed; `unfinished` counts its tasks that wait or run.

    Tasks of one with a `part` of the node run in that, one after another; those of others wait for slots. `running` are
    attempts by the indexes of their tasks.
    """

    bundle_id: UUID
    stage: StageWork
    waiting: deque[ClaimedTask]
    count: int
    unfinished: int
    suspect: bool  # its task may kill this worker
    alone: set[int] | None  # indexes of those of its tasks that run in no session; None: none does
    part: Part | None = None
    claimed_at: float = field(default_factory=time.monotonic)
    running: dict[int, asyncio.Task[Any]] = field(default_factory=dict)

    @property
    def next_in_session(self) -> bool:
        """Whether the next of its waiting tasks runs in a session."""
        return self.alone is not None and bool(self.waiting) and self.waiting[0].index not in self.alone


class Bundles:
    """Bundles in the order of their claims. Those in `claiming` have a claim under way: not held, but not unknown."""

    def __init__(self) -> None:
        self._held: dict[UUID, Bundle] = {}
        self._queue: deque[Bundle] = deque()
        self._changed = asyncio.Event()  # the queue's first bundle may be another
        self.added: Callable[[], None] = lambda: None  # called when more tasks wait
        self.claiming: frozenset[UUID] = frozenset()
        self.tasks_waiting = 0

    def __contains__(self, bundle_id: UUID) -> bool:
        return bundle_id in self._held

    @property
    def ids(self) -> frozenset[UUID]:
        return frozenset(self._held)

    @property
    def unfinished(self) -> bool:
        """Whether any of their tasks waits or runs."""
        return any(bundle.unfinished for bundle in self._held.values())

    @property
    def not_idempotent(self) -> frozenset[UUID]:
        """Those whose tasks may not run twice at the same time."""
        return frozenset(id for id, bundle in self._held.items() if not bundle.stage.spec.idempotent)

    @property
    def hold_suspect(self) -> bool:
        return any(bundle.suspect for bundle in self._held.values())

    def add(
        self,
        bundle_id: UUID,
        stage: StageWork,
        tasks: Sequence[ClaimedTask],
        *,
        suspect: bool,
        alone: bool = False,
        part: Part | None = None,
    ) -> Bundle:
        """`alone`: its task shares no session with others."""
        by_themselves: set[int] | None = None
        if not (suspect or alone or part) and may_run_in_session(stage):
            by_themselves = {task.index for task in tasks if not is_sent(task, stage)}
        bundle = Bundle(bundle_id, stage, deque(tasks), len(tasks), len(tasks), suspect, by_themselves, part)
        self._held[bundle_id] = bundle
        if part is None:
            self._wait(bundle)
        return bundle

    def _wait(self, bundle: Bundle) -> None:
        self._queue.append(bundle)
        self.tasks_waiting += len(bundle.waiting)
        self._changed.set()
        self.added()

    async def take(self) -> tuple[Bundle, list[ClaimedTask]]:
        """The next task that runs in no session, as soon as it is next; for no-ops, all that wait in the bundle."""
        while not self._queue or self._queue[0].next_in_session:
            await self._change()
        bundle = self._queue[0]
        return bundle, self.take_next(bundle)

    async def session_is_next(self) -> None:
        """Wait until the next task runs in a session."""
        while self.next_in_session is None:
            await self._change()

    @property
    def next_in_session(self) -> Bundle | None:
        """The next task's bundle, if that task runs in a session."""
        return self._queue[0] if self._queue and self._queue[0].next_in_session else None

    def take_next(self, bundle: Bundle) -> list[ClaimedTask]:
        """Of the first bundle, like `take_of`."""
        tasks = self.take_of(bundle)
        self.tasks_waiting -= len(tasks)
        if not bundle.waiting:
            self._queue.popleft()
            self._changed.set()
        if bundle.next_in_session:
            self._changed.set()
            self.added()
        return tasks

    def take_for_session(self, stage: StageWork, count: int) -> list[tuple[Bundle, ClaimedTask]]:
        """The next tasks of the queue, up to this number, as long as they are of the stage."""
        taken: list[tuple[Bundle, ClaimedTask]] = []
        key = (stage.job_id, stage.stage, stage.revision)
        while len(taken) < count and (bundle := self.next_in_session) is not None:
            if (bundle.stage.job_id, bundle.stage.stage, bundle.stage.revision) != key:
                break
            while bundle.next_in_session and len(taken) < count:
                taken.append((bundle, bundle.waiting.popleft()))
            if not bundle.waiting:
                self._queue.popleft()
            if not bundle.next_in_session:
                self._changed.set()
        self.tasks_waiting -= len(taken)
        return taken

    def run_alone(self, held: tuple[Bundle, ClaimedTask]) -> None:
        """Give back one that was to run in a session, and must not."""
        bundle, task = held
        if bundle.alone is not None:
            bundle.alone.add(task.index)
        self.give_back([held])

    def give_back(self, taken: Sequence[tuple[Bundle, ClaimedTask]]) -> None:
        """They have not begun, and are next, in this order; those of bundles that are no longer held are dropped."""
        for bundle, task in reversed(taken):
            if bundle.bundle_id in self._held:
                if not bundle.waiting:
                    self._queue.appendleft(bundle)
                bundle.waiting.appendleft(task)
                self.tasks_waiting += 1
        if taken:
            self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def take_of(self, bundle: Bundle) -> list[ClaimedTask]:
        """The next task of a bundle, or all if they are no-ops; none if none waits."""
        count = len(bundle.waiting) if bundle.stage.spec.builtin == "noop" else min(1, len(bundle.waiting))
        return [bundle.waiting.popleft() for _ in range(count)]

    def get(self, bundle_id: UUID) -> Bundle | None:
        return self._held.get(bundle_id)

    def take_out(self, bundle: Bundle, indexes: Collection[int]) -> list[ClaimedTask]:
        """Remove and return those of these tasks of a bundle that still wait."""
        taken = [task for task in bundle.waiting if task.index in indexes]
        rest = [task for task in bundle.waiting if task.index not in indexes]
        if not rest and bundle.waiting:
            self._clear(bundle)
        elif taken:
            bundle.waiting.clear()
            bundle.waiting.extend(rest)
            self.tasks_waiting -= len(taken) if bundle.part is None else 0
        return taken

    def finish(self, bundle: Bundle, count: int) -> bool:
        """Count tasks as finished; True if that was the last of the bundle."""
        bundle.unfinished -= count
        assert bundle.unfinished >= 0
        return bundle.unfinished == 0

    def take_back(self, is_stale: Callable[[Bundle], bool]) -> list[tuple[Bundle, list[ClaimedTask]]]:
        """Remove and return the tasks that still wait in such bundles."""
        stale = [bundle for bundle in self._held.values() if bundle.waiting and is_stale(bundle)]
        taken = []
        for bundle in stale:
            taken.append((bundle, list(bundle.waiting)))
            self._clear(bundle)
        return taken

    def drop(self, bundle_ids: Iterable[UUID]) -> None:
        """Forget bundles that are reported as done, or that the database says are no longer ours."""
        for bundle_id in bundle_ids:
            bundle = self._held.pop(bundle_id, None)
            if bundle is not None and bundle.waiting:
                self._clear(bundle)

    def _clear(self, bundle: Bundle) -> None:
        """None of its tasks waits any more."""
        if bundle.part is None:
            self._queue.remove(bundle)
            self.tasks_waiting -= len(bundle.waiting)
            self._changed.set()
        bundle.waiting.clear()
