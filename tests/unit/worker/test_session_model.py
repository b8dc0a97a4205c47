"""A session as a state machine: Hypothesis plays child, queue, S3, clock and who cancels, in any order it finds.

The child is played, its pipe of tokens is real. After every example each task has come to one end: it was answered, or
charged, or waits as if it had never been taken. What is charged had begun, and no other may be. The same examples run
every time; to look at more of them: MODEL_EXAMPLES=5000 pytest tests/unit/worker/test_session_model.py
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from services.contract.location import Location
from services.contract.task_error import TaskError
from services.contract.task_input import Item, TaskInput, WholeObject
from services.engine.attempt import AttemptReport, ClaimedTask
from services.engine.spec import ProcessorSpec
from services.inputs.fetched import FetchedInput
from services.platform.settings import WorkerSettings
from services.worker.child.frames import END, TOKEN, cut_bytes
from services.worker.isolation.cells import Cells
from services.worker.node.node import equip
from services.worker.session.inputs import Ready
from services.worker.session.session import NotOpened, Session
from services.worker.session.source import Held
from services.worker.task.memory_watch import MemoryExceeded
from services.worker.task.tokens import Tokens
from tests.stages import stage_work

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "0"))
TASKS = 8
BUNDLES = (UUID(int=1), UUID(int=2))


class PlayedChild:
    """What a session sees of a child process; the rules do what the process would."""

    alive, clean = True, True

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.tokens = Tokens()
        self.talk: asyncio.Future[None] = loop.create_future()
        self.death: asyncio.Future[int] = loop.create_future()
        self.memory: asyncio.Future[None] = loop.create_future()
        self.unread: list[dict[str, Any]] = []  # answers in the pipe
        self.running: int | None = None  # token
        self.in_session = True
        self.indexes: dict[int, int] = {}  # of the tasks, by their tokens
        self.begun: set[int] = set()  # indexes

    async def begin(self, job: Any, workspace: Path, heard: Callable[[list[bytes]], None]) -> bytes:
        self.heard = heard
        return b"key"

    def send(self, key: bytes, body: bytes) -> None:
        self.indexes |= {token: index for token, index, *_ in orjson.loads(cut_bytes(body)[0])}

    def limit_memory(self, memory_bytes_max: int | None) -> Callable[[], bool]:
        return lambda: False

    def used(self) -> tuple[float, int]:
        return 0.0, 0

    async def watch_memory(self, memory_bytes_max: int) -> None:
        await self.memory

    async def crash(self) -> TaskError:
        return TaskError("crash", "it has died")

    async def kill(self) -> None:
        """As ChildProcess does: what it has said before is read to its end."""
        self.die()
        self.deliver(len(self.unread))
        self.talk.cancel()
        await asyncio.gather(self.talk, return_exceptions=True)
        self.tokens.close()

    def die(self) -> None:
        self.alive = self.in_session = False
        if not self.death.done():
            self.death.set_result(-11)

    def use_too_much_memory(self) -> None:
        if not self.memory.done():
            self.memory.set_exception(MemoryExceeded(2, 1))

    def end_session(self, memory_bytes: int, *, clean: bool) -> None:
        self.clean = clean

    def deliver(self, count: int) -> None:
        read, self.unread = self.unread[:count], self.unread[count:]
        if read and not self.talk.done():
            try:
                self.heard([orjson.dumps(answer) for answer in read])
            except Exception as error:
                self.talk.set_exception(error)

    def next_token(self) -> int | None:
        """What a child's read would get now; None: it would wait."""
        os.set_blocking(self.tokens.theirs, False)
        try:
            return int(TOKEN.unpack(os.read(self.tokens.theirs, TOKEN.size))[0])
        except BlockingIOError:
            return None

    def step(self) -> None:
        """Begin the next task, or end the session if it is told to."""
        if self.running is not None or not self.in_session or not self.alive:
            return
        token = self.next_token()
        if token == END:
            self.in_session = False
            self.unread.append({"token": END, "clean": True, "memory_bytes": 0})
        elif token is not None:
            assert self.indexes[token] not in self.begun, "no task runs twice"
            self.begun.add(self.indexes[token])
            self.running = token

    def answer(self, *, fails: bool, over: bool) -> None:
        if self.running is None or not self.alive:
            return
        answer: dict[str, Any] = {"token": self.running, "clean": not over, "memory_bytes": 0, "over": over}
        ended = {"error": {"type": "exception", "message": "no"}} if fails else {"value": self.running}
        self.unread.append(answer | ended)
        self.running = None
        self.in_session = not over


class Queue:
    """The waiting tasks, and what has become of each: `ends` by index."""

    slots = 1
    task_seconds: float | None = 1e-6
    has_idle_slot = True

    def __init__(self, held: Sequence[Held]) -> None:
        self.left = list(held)
        self.alone: list[int] = []
        self.reports: dict[int, AttemptReport] = {}

    @property
    def waiting(self) -> int:
        return len(self.left)

    def take(self, count: int) -> list[Held]:
        taken, self.left = self.left[:count], self.left[count:]
        return taken

    def give_back(self, held: Sequence[Held]) -> None:
        self.left[:0] = held

    def run_alone(self, held: Held) -> None:
        self.alone.append(held.task.index)

    def report(self, ended: Sequence[tuple[Held, AttemptReport]]) -> None:
        for held, finished in ended:
            assert held.task.index not in self.reports, "an attempt ends once"
            self.reports[held.task.index] = finished

    def learn(self, seconds: float, tasks: int) -> None:
        pass

    def closed(self) -> None:
        pass


class PlayedS3:
    """What fetches the inputs: each is there when a rule says so."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[Ready]] = []

    async def fetch(self, task: ClaimedTask) -> Ready:
        ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self.waiting.append(ready)
        return await ready

    def answer(self, number: int, *, fails: bool) -> None:
        waiting = [ready for ready in self.waiting if not ready.done()]
        if not waiting:
            return
        ready = waiting[number % len(waiting)]
        if fails:
            ready.set_exception(TaskError("input_missing", "no"))
        else:
            ready.set_result(Ready(FetchedInput(Path("input"), 1), b"x", 0.1))


class PlayedSession(RuleBasedStateMachine):
    spec = ProcessorSpec(function="m:f")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.timed_out: int | None = None
        self.place = tempfile.TemporaryDirectory(prefix="model-")

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @staticmethod
    def input(number: int) -> TaskInput:
        return Item(number)

    @initialize()
    def open(self) -> None:
        self.do(self._open())
        self.act()

    async def _open(self) -> None:
        self.child = PlayedChild()

        @asynccontextmanager
        async def lease(*_: Any) -> AsyncIterator[PlayedChild]:
            try:
                yield self.child
            except BaseException:
                await self.child.kill()
                raise

        job_id = uuid4()
        stage = stage_work(job_id, self.spec, timeout_seconds=3600)
        tasks = [ClaimedTask(BUNDLES[i * 2 // TASKS], job_id, 0, i, 1, self.input(i)) for i in range(TASKS)]
        directory = Path(self.place.name)
        settings = WorkerSettings(bucket="model", scratch=str(directory), cache=str(directory / "cache"))
        equipment = equip(settings, None, Cells("process", directory))
        self.queue = Queue([Held(None, task) for task in tasks])
        children: Any = SimpleNamespace(lease=lease)
        self.session = Session(equipment, stage, tasks[0], children, self.queue, f"s-{job_id.hex[:8]}")
        self.s3 = PlayedS3()
        self.session._fetches._fetch = self.s3.fetch  # type: ignore[method-assign]
        self.running = asyncio.create_task(self.session.run())

    def act(self, *acts: Callable[[], None]) -> None:
        """Do these things at once, and let the session do what it can."""

        async def act() -> None:
            for each in acts:
                each()
            for _ in range(5):
                await asyncio.sleep(0)

        self.do(act())

    # The child.

    @rule(count=st.integers(1, 4), fails=st.booleans())
    def work_on(self, count: int, fails: bool) -> None:
        """Begin and answer some tasks, and begin the next."""
        for _ in range(count):
            self.child.step()
            self.child.answer(fails=fails, over=False)
        self.child.step()

    @rule(count=st.integers(1, 3), end=st.sampled_from(["death", "memory", "time", "cancellation"]))
    def end_unheard(self, count: int, end: str) -> None:
        """It meets its end while the answers of some tasks lie in the pipe, and the next one has begun."""
        self.work_on(count, fails=False)
        ends = {
            "death": self.child.die,
            "memory": self.child.use_too_much_memory,
            "time": lambda: self._look(7200.0),
            "cancellation": lambda: self.session.cancel(lambda task: task.bundle_id == BUNDLES[0]),
        }
        self.act(ends[end])

    @rule()
    def begin_task(self) -> None:
        self.child.step()

    @rule(over=st.booleans())
    def answer(self, over: bool) -> None:
        self.child.answer(fails=False, over=over)

    @rule(count=st.integers(1, 3))
    def deliver(self, count: int) -> None:
        self.act(lambda: self.child.deliver(count))

    @rule(count=st.integers(0, 3))
    def die(self, count: int) -> None:
        """Some of what it has said is heard at the same moment."""
        self.act(self.child.die, lambda: self.child.deliver(count))

    @rule()
    def use_too_much_memory(self) -> None:
        self.act(self.child.use_too_much_memory)

    # S3.

    @rule(numbers=st.lists(st.integers(0, 7), min_size=1, max_size=4), fails=st.booleans())
    def fetch(self, numbers: list[int], fails: bool) -> None:
        """Some inputs come, in any order; the last may be gone."""
        *first, last = numbers
        self.act(
            *(partial(self.s3.answer, number, fails=False) for number in first),
            partial(self.s3.answer, last, fails=fails),
        )

    # The worker.

    @rule(wakes=st.booleans())
    def take_back(self, wakes: bool) -> None:
        self.act(self.session.take_back, *([self.session.wake] if wakes else []))

    @rule(bundle=st.sampled_from([*BUNDLES, None]))
    def cancel(self, bundle: UUID | None) -> None:
        self.act(lambda: self.session.cancel(None if bundle is None else lambda task: task.bundle_id == bundle))

    @rule(seconds=st.sampled_from([0.1, 7200.0]))
    def time_passes(self, seconds: float) -> None:
        self.act(lambda: self._look(seconds))

    def _look(self, seconds: float) -> None:
        """With 7200 s, the time of the task that runs is up."""
        session = self.session
        session._since -= seconds
        if self.running.done() or session._stop.done():
            return
        first = session._sent[0].held.task.index if session._sent else None
        session._look()
        if session._stop.done() and session._stop.result() == "timeout":
            self.timed_out = first

    def teardown(self) -> None:
        if hasattr(self, "running"):
            self.do(self._end())
        self.loop.close()
        self.place.cleanup()

    async def _end(self) -> None:
        """The child goes on until the session is over; then every task has come to one end."""
        for _ in range(100):
            self.s3.answer(0, fails=False)
            self.child.step()
            self.child.answer(fails=False, over=False)
            self.child.deliver(9)
            for _ in range(3):
                await asyncio.sleep(0)
            if self.running.done():
                break
            self.session._look() if self.session.idle else self.session.wake()
        async with asyncio.timeout(10):
            await asyncio.wait({self.running})
        error = self.running.exception()
        assert error is None or isinstance(error, NotOpened)
        waiting = [held.task.index for held in self.queue.left]
        ends = [*waiting, *self.queue.alone, *self.queue.reports]
        assert sorted(ends) == list(range(TASKS)), "each task has come to one end"
        if not self.s3.waiting:
            assert waiting == sorted(waiting), "in their order"
        charged = [r for r in self.queue.reports.values() if r.outcome in ("failed", "timeout", "memory")]
        begun = self.child.begun
        assert begun.isdisjoint([*waiting, *self.queue.alone]), "what waits again has not begun"
        assert {finished.index for finished in charged} <= begun, "what is charged has begun"
        assert {each.index for each in charged if each.outcome == "timeout"} <= {self.timed_out}, "its own time was up"
        by_worker = [finished for finished in charged if finished.error and finished.error["message"] != "no"]
        assert len(by_worker) <= 1, "the end of a child is charged once"


class PlayedSessionWithFiles(PlayedSession):
    """Of a callable, whose inputs are fetched."""

    spec = ProcessorSpec(callable="m:f")

    @staticmethod
    def input(number: int) -> TaskInput:
        return WholeObject(Location("bucket", str(number)), etag='"1"', bytes=1)


@pytest.mark.parametrize("played", [PlayedSession, PlayedSessionWithFiles])
def test_whatever_happens_each_task_comes_to_one_end(played: type[PlayedSession]) -> None:
    chosen = hypothesis_settings(
        max_examples=EXAMPLES or 150,
        stateful_step_count=12,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
    )
    run_state_machine_as_test(played, settings=chosen)
