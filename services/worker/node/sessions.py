"""The sessions of a node: which slots have one, where their tasks come from, and when another is opened."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from uuid import UUID

import structlog

from services.engine.attempt import AttemptReport, ClaimedTask, StageWork
from services.worker.node.bundles import Bundle, Bundles
from services.worker.node.pace import Pace
from services.worker.session.session import NotOpened, Session, names
from services.worker.session.source import Held
from services.worker.task.attempt import Equipment
from services.worker.task.warm_children import WarmChildren

log = structlog.get_logger()


class Sessions:
    """Opens a session in a `free` slot whenever a task is next that runs in one, and no other session takes it.

    `report` gets what has ended of a bundle, `note` each failure and some successes. `run_alone` runs the first task of
    a bundle by itself, where no session could be opened. `given_back` is called when a slot is free again.
    """

    def __init__(
        self,
        slots: int,
        equipment: Equipment,
        bundles: Bundles,
        free: asyncio.LifoQueue[WarmChildren],
        pace: Pace,
        report: Callable[[Bundle, Sequence[AttemptReport]], None],
        note: Callable[[AttemptReport, float], None],
        run_alone: Callable[[Bundle, WarmChildren], Awaitable[None]],
        given_back: Callable[[], None],
    ) -> None:
        self.slots = slots
        self.free = free
        self.bundles = bundles
        self.pace = pace
        self.report = report
        self.note = note
        self._equipment = equipment
        self._run_alone = run_alone
        self._given_back = given_back
        self._in_slots: set[Session] = set()
        self._open: set[Session] = set()  # also those that only have something to put
        self._opening = 0
        self._is_quiet = False
        self._may_open = asyncio.Event()
        self._names = (f"s{number}" for number in itertools.count())
        bundles.added = self.wake

    @property
    def any_open(self) -> bool:
        return bool(self._open)

    @property
    def busy(self) -> int:
        """Slots in use."""
        return len(self._in_slots)

    @property
    def wanted(self) -> int:
        """Slots in use, and tasks that were sent ahead to them."""
        return sum(1 + session.ahead for session in self._in_slots)

    @property
    def longest_running_seconds(self) -> float:
        return max((session.running_seconds for session in self._in_slots), default=0.0)

    def has_idle_slot(self, stage: StageWork) -> bool:
        """Whether a task of the stage would begin at once."""
        return not self.free.empty() or any(session.idle and session.stage is stage for session in self._in_slots)

    def kill(self, bundle_ids: Collection[UUID] | None) -> None:
        """Kill the running tasks of these bundles (None: of all), and drop those of them that were sent ahead."""
        for session in list(self._in_slots):
            session.cancel(None if bundle_ids is None else lambda task: task.bundle_id in bundle_ids)

    def cancel(self, bundle_id: UUID, indexes: Collection[int]) -> None:
        """Kill, or drop, these tasks of a bundle."""
        for session in list(self._in_slots):
            session.cancel(lambda task: task.bundle_id == bundle_id and task.index in indexes)

    def take_back(self, is_stale: Callable[[Bundle], bool]) -> None:
        """Have tasks of such bundles wait in the queue again that have not begun. Then `wake`."""
        self._is_quiet = True
        for session in list(self._in_slots):
            if any(is_stale(held.bundle) for held in session.not_begun):
                session.take_back()
        self._is_quiet = False

    def wake(self) -> None:
        """There may be more tasks in the queue. Idle sessions come first."""
        if self._is_quiet:
            return
        for session in sorted(self._in_slots, key=lambda session: not session.idle):
            session.wake()
        self._may_open.set()

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Run until cancelled."""
        while True:
            await self.bundles.session_is_next()
            if self._opening >= self.bundles.tasks_waiting:
                self._may_open.clear()
                await self._may_open.wait()
                continue
            children = await self.free.get()
            bundle = self.bundles.next_in_session
            if bundle is None or self._opening >= self.bundles.tasks_waiting:
                self.free.put_nowait(children)
                continue
            group.create_task(self._run(bundle, bundle.waiting[0], children))
            self._opening += 1

    async def _run(self, bundle: Bundle, first: ClaimedTask, children: WarmChildren) -> None:
        source = _Source(self, bundle.stage, children)
        name = f"{bundle.stage.job_id.hex[-8:]}-{bundle.stage.stage}-{next(self._names)}"
        session = Session(self._equipment, bundle.stage, first, children, source, name)
        source.session = session
        self._open.add(session)
        self._in_slots.add(session)
        try:
            await session.run()
        except NotOpened as error:
            log.debug("no session", job=str(bundle.stage.job_id), stage=bundle.stage.stage, why=str(error.__cause__))
            self.opened(source)
            if (next_bundle := self.bundles.next_in_session) is not None:
                await self._run_alone(next_bundle, children)
        finally:
            self.opened(source)
            self._open.discard(session)
            source.closed()
            self._given_back()

    def opened(self, source: "_Source") -> None:
        """A session has got its first tasks, or never will."""
        if source.is_opening:
            source.is_opening = False
            self._opening -= 1
            self._may_open.set()

    def leave(self, session: Session, children: WarmChildren) -> None:
        if session in self._in_slots:
            self._in_slots.discard(session)
            self.free.put_nowait(children)
            self._given_back()


class _Source:
    """The tasks of one stage, for one session."""

    def __init__(self, sessions: Sessions, stage: StageWork, children: WarmChildren) -> None:
        self.slots = sessions.slots
        self.session: Session
        self.is_opening = True
        self._sessions = sessions
        self._stage = stage
        self._key = (stage.job_id, stage.stage)
        self._children = children

    @property
    def waiting(self) -> int:
        return self._sessions.bundles.tasks_waiting

    @property
    def task_seconds(self) -> float | None:
        return self._sessions.pace.seconds_of(self._key)

    @property
    def has_idle_slot(self) -> bool:
        return self._sessions.has_idle_slot(self._stage)

    def take(self, count: int) -> list[Held]:
        taken = self._sessions.bundles.take_for_session(self._stage, count)
        self._sessions.opened(self)
        return [Held(bundle, task) for bundle, task in taken]

    def give_back(self, held: Sequence[Held]) -> None:
        self._sessions.bundles.give_back(held)
        if held:
            self._sessions.wake()

    def run_alone(self, held: Held) -> None:
        self._sessions.bundles.run_alone(held)
        self._sessions.wake()

    def learn(self, seconds: float, tasks: int) -> None:
        self._sessions.pace.learn(self._key, seconds, tasks)

    def report(self, ended: Sequence[tuple[Held, AttemptReport]]) -> None:
        for bundle, group in itertools.groupby(ended, key=lambda each: each[0].bundle):
            finished = [report for _, report in group]
            for number, each in enumerate(finished):
                if number == 0 or each.outcome != "succeeded":
                    self._sessions.note(each, time.monotonic() - each.run_seconds)
                if each.outcome != "succeeded":
                    log.info("attempt ended", **names(each), outcome=each.outcome, error=each.error)
            self._sessions.report(bundle, finished)

    def closed(self) -> None:
        self._sessions.leave(self.session, self._children)
