"""However a session ends while tasks are on their way: the one that ran is charged, and no other; none is lost.

A session with a child of its own, and a queue that is played. The tasks tell by files how far they are, and wait for
files; where an answer and an end come at the same moment, the worker's loop sleeps until both lie there.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest

from services.contract.task_input import Item
from services.engine.attempt import AttemptReport, ClaimedTask
from services.engine.spec import ProcessorSpec
from services.worker.isolation.cells import Cells
from services.worker.node.node import equip
from services.worker.session.session import NotOpened, Session
from services.worker.session.source import Held
from services.worker.task.warm_children import WarmChildren
from tests.integration.worker.conftest import InProcessGrid
from tests.stages import stage_work
from tests.until import until

CODE = """
import fcntl, json, os, signal, threading, time

def work_on_file(input, output, *, place):
    output.write_text(work(json.loads(input.read_text()), place=place) and "done")

def work(item, *, place):
    def wait_for(name):
        while not os.path.exists(f"{place}/{name}"):
            time.sleep(0.002)

    def tell(name):
        open(f"{place}/{name}", "w").close()

    print(f"task {item['name']}", flush=True)
    exec(item["code"], {"wait_for": wait_for, "tell": tell, **globals()})
    return item["name"] + 1

def find_pipe(mode):
    # of a session: its tokens are read, its answers are written
    def is_it(descriptor):
        try:
            is_pipe = os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
            return is_pipe and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == mode
        except OSError:
            return False

    [found] = filter(is_it, map(int, os.listdir("/proc/self/fd")))
    return found
"""
GOOD = "pass"
STAYS = "tell('began'); wait_for('go')"
MEMORY_BYTES = 150 << 20


class Queue:
    """The waiting tasks of one stage, and what became of those that were taken."""

    slots = 1
    task_seconds: float | None = 1e-6
    has_idle_slot = False

    def __init__(self, held: Sequence[Held]) -> None:
        self.left = deque(held)
        self.sent: list[int] = []
        self.given_back: list[int] = []
        self.alone: list[int] = []
        self.reports: dict[int, AttemptReport] = {}
        self.is_closed = False

    @property
    def waiting(self) -> int:
        return 2 * len(self.left)  # so that all that is left is sent at once

    def take(self, count: int) -> list[Held]:
        taken = [self.left.popleft() for _ in range(min(count, len(self.left)))]
        self.sent += [held.task.index for held in taken]
        return taken

    def give_back(self, held: Sequence[Held]) -> None:
        self.given_back += [each.task.index for each in held]

    def run_alone(self, held: Held) -> None:
        self.alone.append(held.task.index)

    def report(self, ended: Sequence[tuple[Held, AttemptReport]]) -> None:
        for held, finished in ended:
            assert held.task.index not in self.reports, "each is reported once"
            self.reports[held.task.index] = finished

    def learn(self, seconds: float, tasks: int) -> None:
        pass

    def closed(self) -> None:
        self.is_closed = True


class Scene:
    """A session that runs, with its queue; `place` is where its tasks tell and wait."""

    def __init__(self, session: Session, queue: Queue, children: WarmChildren, place: Path) -> None:
        self.session = session
        self.queue = queue
        self.children = children
        self.place = place
        self.running: asyncio.Task[None]

    @property
    def child(self) -> psutil.Process:
        return psutil.Process(self.session._child.pid)

    def go(self, name: str = "go") -> None:
        (self.place / name).touch()

    async def began(self, name: str = "began") -> None:
        await until((self.place / name).exists)

    def sleep_until(self, holds: Callable[[], bool]) -> None:
        """The worker's loop does nothing meanwhile."""
        ends = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < ends
            time.sleep(0.002)

    async def ended(self) -> None:
        async with asyncio.timeout(30):
            await self.running
        assert self.queue.is_closed

    def outcomes(self) -> list[str | None]:
        """Of each task; `back`: it waits again, as if it had never been taken; None: it was never taken."""
        count = len(self.queue.sent) + len(self.queue.left)
        found: list[str | None] = [None] * count
        for index in self.queue.given_back:
            assert found[index] is None, "given back once"
            found[index] = "back"
        for index, finished in self.queue.reports.items():
            assert found[index] is None, "nobody runs twice"
            found[index] = (finished.error or {}).get("type", finished.outcome)
        return found

    async def log(self, grid: InProcessGrid, index: int) -> bytes:
        uri = self.queue.reports[index].log
        assert uri is not None
        return await grid.get(uri)


Play = Callable[..., AbstractAsyncContextManager[Scene]]


@pytest.fixture(params=["function", "callable"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def play(grid: InProcessGrid, code: Path, tmp_path: Path, kind: str) -> AsyncIterator[Play]:
    (code / "scenes.py").write_text(CODE)
    place = tmp_path / "place"
    place.mkdir()
    (tmp_path / "node").mkdir()
    equipment = equip(grid.settings, grid.aws.s3, Cells("process", tmp_path / "node"))
    children = WarmChildren(equipment.cells)

    @asynccontextmanager
    async def playing(*codes: str, bundles: Sequence[UUID] = (), timeout_seconds: float = 60.0) -> AsyncIterator[Scene]:
        """A session that gets tasks which run these lines; of bundles one after another, else all of one."""
        job_id, one = uuid4(), uuid4()
        by_kind = {"function": {"function": "scenes:work"}, "callable": {"callable": "scenes:work_on_file"}}
        spec = ProcessorSpec.model_validate(by_kind[kind])
        limits = {"timeout_seconds": timeout_seconds, "memory_bytes": MEMORY_BYTES}
        stage = stage_work(job_id, spec, params={"place": str(place)}, **limits)
        tasks = [
            ClaimedTask(bundles[index] if bundles else one, job_id, 0, index, 1, Item({"name": index, "code": code}))
            for index, code in enumerate(codes)
        ]
        queue = Queue([Held(None, task) for task in tasks])
        session = Session(equipment, stage, tasks[0], children, queue, f"s{uuid4().hex[:8]}")
        scene = Scene(session, queue, children, place)
        scene.running = asyncio.create_task(session.run())
        try:
            yield scene
        finally:
            scene.running.cancel()
            await asyncio.wait({scene.running})

    yield playing
    await children.close()


async def test_undisturbed_each_task_is_answered(play: Play) -> None:
    async with play(GOOD, GOOD, GOOD) as scene:
        await scene.ended()
        assert scene.outcomes() == ["succeeded"] * 3


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "crash"),
        ("os._exit(0)", "crash"),
        ("os.close(find_pipe(os.O_RDONLY)); os.close(find_pipe(os.O_WRONLY))", None),
        ("raise SystemExit(3)", "exit_code"),
        ("raise KeyboardInterrupt", "exception"),
    ],
)
async def test_who_ends_the_child_is_charged(play: Play, grid: InProcessGrid, end: str, error: str | None) -> None:
    async with play(GOOD, GOOD, end, GOOD, GOOD) as scene:
        await scene.ended()
        found = scene.outcomes()
        assert found[:2] == ["succeeded"] * 2
        if error == "crash":
            assert found[2:] == ["crash", "back", "back"]
            assert await scene.log(grid, 2) == b"task 2\n"
        elif error is not None:
            assert found[2:] == [error, "succeeded", "succeeded"]
        else:  # it has taken the pipes away from its own process, so its answer can't be told from a crash
            assert found[2:] == ["crash", "back", "back"]


async def test_a_child_that_is_killed_from_outside_costs_the_task_that_ran(play: Play) -> None:
    async with play(GOOD, STAYS, GOOD, GOOD) as scene:
        await scene.began()
        scene.child.kill()
        await scene.ended()
        assert scene.outcomes() == ["succeeded", "crash", "back", "back"]


async def test_answers_that_lie_in_the_pipe_when_the_child_dies_count(play: Play) -> None:
    """The worker sees the death first, or at the same moment: it reads on to the end of the pipe."""
    last = "tell('last'); wait_for('go'); os.kill(os.getpid(), signal.SIGKILL)"
    async with play(STAYS, *[GOOD] * 50, last, GOOD) as scene:
        await scene.began()
        child = scene.child
        scene.go()
        scene.sleep_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
        assert not scene.queue.reports
        await scene.ended()
        assert scene.outcomes() == ["succeeded"] * 51 + ["crash", "back"]


async def test_a_child_that_dies_between_two_tasks_costs_none(play: Play) -> None:
    async with play(GOOD, GOOD) as scene:
        await until(lambda: len(scene.queue.reports) == 2)
        scene.child.kill()
        await scene.ended()
        assert scene.outcomes() == ["succeeded"] * 2


async def test_a_child_that_dies_before_its_first_task_opens_no_session(play: Play) -> None:
    """The task then finds out by itself what is wrong."""
    async with play(GOOD, GOOD) as scene:
        scene.queue.left, held = deque(), scene.queue.left
        await until(lambda: scene.session._feeding)
        scene.child.kill()
        with pytest.raises(NotOpened):
            await scene.running
        scene.queue.left = held
        assert scene.outcomes() == [None, None]


async def test_a_drain_takes_back_what_has_not_begun(play: Play) -> None:
    async with play(GOOD, STAYS, GOOD, GOOD) as scene:
        await scene.began()
        scene.session.take_back()
        scene.go()
        await scene.ended()
        assert scene.outcomes() == ["succeeded", "succeeded", "back", "back"]


async def test_a_cancelled_task_ends_and_those_of_other_bundles_do_not(play: Play) -> None:
    gone, kept = uuid4(), uuid4()
    async with play(STAYS, GOOD, GOOD, bundles=[gone, gone, kept]) as scene:
        await scene.began()
        scene.session.cancel(lambda task: task.bundle_id == gone)
        await scene.ended()
        assert scene.outcomes() == ["released", "released", "back"]


async def test_the_cancellation_of_what_has_not_begun_leaves_the_running_task_alone(play: Play) -> None:
    gone, kept = uuid4(), uuid4()
    async with play(STAYS, GOOD, GOOD, bundles=[kept, gone, kept]) as scene:
        await scene.began()
        scene.session.cancel(lambda task: task.bundle_id == gone)
        scene.go()
        await scene.ended()
        assert scene.outcomes() == ["succeeded", "released", "back"]


async def test_a_cancelled_task_that_has_answered_costs_nothing(play: Play) -> None:
    """Nor does the next one, which the child has begun by then: it is released."""
    gone, kept = uuid4(), uuid4()
    next_one = "tell('next'); wait_for('never')"
    async with play(STAYS, next_one, GOOD, bundles=[gone, kept, kept]) as scene:
        await scene.began()
        scene.go()
        scene.sleep_until((scene.place / "next").exists)
        scene.session.cancel(lambda task: task.bundle_id == gone)
        await scene.ended()
        assert scene.outcomes() == ["succeeded", "released", "back"]


async def test_a_time_out_costs_the_task_that_ran(play: Play, grid: InProcessGrid) -> None:
    async with play(GOOD, STAYS, GOOD, timeout_seconds=0.5) as scene:
        await scene.ended()
        assert scene.outcomes() == ["succeeded", "timeout", "back"]
        assert 0.5 <= scene.queue.reports[1].run_seconds < 10
        assert await scene.log(grid, 1) == b"task 1\n"


async def test_the_time_of_a_task_begins_with_the_end_of_the_one_before(play: Play) -> None:
    async with play(*["time.sleep(0.4)"] * 4, timeout_seconds=1.2) as scene:
        await scene.ended()
        assert scene.outcomes() == ["succeeded"] * 4


async def test_an_answer_that_lies_there_when_the_time_is_up_counts(play: Play) -> None:
    next_one = "tell('next'); wait_for('never')"
    async with play(STAYS, next_one, GOOD, timeout_seconds=1.0) as scene:
        await scene.began()
        scene.go()
        scene.sleep_until((scene.place / "next").exists)
        up = time.monotonic() + 1.2
        scene.sleep_until(lambda: time.monotonic() > up)
        await scene.ended()
        found = scene.outcomes()
        assert found[0] == "succeeded"
        assert found[1] in ("timeout", "released"), "its own time, or that of the one before it"
        assert found[2] == "back"


@pytest.mark.parametrize("size", [250, 1000])
async def test_too_much_memory_costs_the_task_that_ran(play: Play, size: int) -> None:
    eats = f"held = bytearray({size} << 20); held[::4096] = b'1' * len(held[::4096]); wait_for('never')"
    async with play(GOOD, eats, GOOD) as scene:
        await scene.ended()
        assert scene.outcomes() == ["succeeded", "memory", "back"]
        assert scene.queue.reports[1].memory_bytes_peak > MEMORY_BYTES


@pytest.mark.parametrize(
    "left",
    [
        "threading.Thread(target=time.sleep, args=(100,), daemon=True).start()",
        "import subprocess; subprocess.Popen(['sleep', '100'], start_new_session=True)",
        "for number in range(200): open(f'left{number}', 'w').close()",
    ],
)
async def test_who_leaves_something_behind_ends_the_session_for_the_others(play: Play, left: str) -> None:
    async with play(GOOD, left, GOOD, GOOD) as scene:
        await scene.ended()
        assert scene.outcomes() == ["succeeded", "succeeded", "back", "back"]


@pytest.mark.parametrize("place", ["", "os.environ['TMPDIR'] + '/' + "])
async def test_a_file_that_is_left_ends_the_session_of_functions_alone(play: Play, kind: str, place: str) -> None:
    """A callable's directory is looked through after each task anyway, and a few files are removed."""
    async with play(GOOD, f"open({place}'left', 'w').close()", GOOD, GOOD) as scene:
        await scene.ended()
        rest = "back" if kind == "function" else "succeeded"
        assert scene.outcomes() == ["succeeded", "succeeded", rest, rest]


@pytest.mark.parametrize("kind", ["callable"])
async def test_who_replaces_its_own_directory_fails(play: Play) -> None:
    """Where it is told by its path from the one that the worker gave."""
    replaces = "own = os.path.dirname(os.path.dirname(os.getcwd())); os.rename(own, own + '-gone'); "
    replaces += "import shutil; shutil.copytree(own + '-gone', own)"
    async with play(GOOD, replaces, GOOD) as scene:
        await scene.ended()
        assert scene.outcomes() == ["succeeded", "output_invalid", "back"]


async def test_what_is_put_while_the_child_dies_is_told_once_it_is_there(play: Play, grid: InProcessGrid) -> None:
    async with play(GOOD, "print('x')", "os.kill(os.getpid(), signal.SIGKILL)", GOOD) as scene:
        await scene.ended()
        assert scene.outcomes() == ["succeeded", "succeeded", "crash", "back"]
        for index in (0, 1):
            output = scene.queue.reports[index].output
            assert output is not None
            if "uri" in output:
                assert await grid.get(output["uri"]) == b"done"


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("said", [b"x" * 100, b"y" * 20])
async def test_who_writes_to_the_answers_is_charged(play: Play, said: bytes, at_once: bool) -> None:
    """User code shares the process, and so the pipe; without the session's key nothing in it is an answer."""
    speaks = f"os.write(find_pipe(os.O_WRONLY), {said!r}); tell('said'); wait_for('never')"
    async with play(GOOD, STAYS, speaks, GOOD) as scene:
        await scene.began()
        if at_once:
            scene.go()
            scene.sleep_until((scene.place / "said").exists)
        scene.go()
        await scene.ended()
        assert scene.outcomes() == ["succeeded", "succeeded", "crash", "back"]


async def test_who_reads_the_tokens_of_others_makes_them_wait_only(play: Play) -> None:
    """They can't be told from what has begun, so they are released: that counts for none as a failure."""
    reads = "os.read(find_pipe(os.O_RDONLY), 8); os._exit(1)"
    async with play(GOOD, reads, GOOD, GOOD, GOOD) as scene:
        await scene.ended()
        assert scene.outcomes() == ["succeeded", "crash", "released", "released", "back"]


async def test_a_fault_of_the_worker_costs_the_task_that_ran(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    next_one = "tell('next'); wait_for('never')"
    async with play(GOOD, STAYS, next_one, GOOD) as scene:
        await scene.began()
        await until(lambda: scene.session._answered == 1)

        def broken(*_: Any) -> None:
            raise RuntimeError("a fault of our own")

        monkeypatch.setattr(scene.session, "_read", broken)
        scene.go()
        scene.sleep_until((scene.place / "next").exists)
        await scene.ended()
        assert scene.outcomes() == ["succeeded", "exception", "released", "back"]


async def test_a_program_that_the_kernel_kills_for_its_memory_is_the_tasks_even_if_that_succeeds(play: Play) -> None:
    runs = "tell('began'); wait_for('go'); import subprocess; subprocess.run(['true'])"
    async with play(GOOD, runs, GOOD) as scene:
        await scene.began()
        killed = iter([True])
        scene.session._was_killed = lambda: next(killed, False)
        scene.go()
        await scene.ended()
        assert scene.outcomes() == ["succeeded", "memory", "succeeded"]
