"""The worker's side of a slot's child process: start it, give it jobs, end it with all its descendants."""

import asyncio
import os
import socket
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import psutil

from services.contract.task_error import TaskError
from services.platform import effects
from services.platform.threads import in_thread_or_undone
from services.worker.child import frames
from services.worker.child.commands import killed_by
from services.worker.child.job import ChildJob, SessionJob
from services.worker.isolation.cells import Cell, Cells, Given
from services.worker.isolation.plan import MARK, Order
from services.worker.isolation.view import View
from services.worker.task.answer import BYTES_MAX, read_answer
from services.worker.task.answers import Answers
from services.worker.task.fork_server import FORKING, Forked, ForkServer
from services.worker.task.memory_watch import MemoryExceeded, MemoryWatch
from services.worker.task.processes import Processes
from services.worker.task.scratch import remove_tree
from services.worker.task.tokens import Tokens

_ROOT = str(Path(__file__).parents[3])
_BOOT = (
    "import sys; sys.path[:0] = [{root!r}]; sys.path += [p for p in {needs!r} if p not in sys.path]; "
    "from services.worker.child.program import main; del sys.path[0]; main({fd}, {session}, {parent})"
)
# Where the child's requirements are installed, for an interpreter of another environment.
_NEEDS = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
_NO_HOME = "/nonexistent"  # of a fork server whose children each have a home of their own
_EXIT_SECONDS = 5.0
_DISCONNECTED = (EOFError, ConnectionError)
_SUBMIT_DIRECTORY = "SLURM_SUBMIT_DIR"  # the task's own directory (task/array_jobs)
_SAID_MAX = 500  # bytes shown of what a child says that could not start


class NotStarted(TaskError):
    """The child ended itself before its first answer, and said why: its node may be at fault."""


class ChildProcess:
    """One running child in its cell. It does one job at a time; after any exception from `run` it is gone."""

    def __init__(
        self,
        process: asyncio.subprocess.Process | Forked,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        cell: Cell,
        home: str | None,
        said: IO[bytes],
        tokens: Tokens,
        answers: Answers,
    ) -> None:
        self.cell = cell
        self._answers = answers
        self.tokens = tokens
        self._worker_home = home
        self._process = process
        self._processes = Processes(process.pid, cell)
        self.death = asyncio.ensure_future(process.wait())
        self._reader = reader
        self._writer = writer
        self._given: Given | None = None  # the directory of the task that runs
        self._end: asyncio.Future[None] | None = None
        self.talk: asyncio.Future[None] | None = None  # reads what it sends in a session
        self._said = said  # what it said before its first job
        self._answered = False
        self._own_marks = {("TMPDIR", str(cell.tmp)), (MARK, cell.private.name)}
        self._marks = self._own_marks  # variables that only its descendants have
        self.memory_bytes = 0  # resident memory at its last answer
        self.clean = True  # its last job has left nothing behind that the next could meet
        self.answered_at = time.monotonic()

    @classmethod
    async def start(
        cls, cells: Cells, environment: Mapping[str, str], python: str = sys.executable, view: View | None = None
    ) -> "ChildProcess":
        """Start a child in a cell of its own, and in its own session, so that it gets no signals of the terminal.

        Raises TaskError if its tasks can't be isolated as `view` says, IsolationUnusable, and OSError.
        """
        cell = await in_thread_or_undone(partial(cells.make, view or View(), environment), Cell.close)
        Processes.starting += 1
        try:
            return await cls._start_in(cell, environment, python)
        except BaseException:
            await asyncio.to_thread(cell.close)
            raise
        finally:
            Processes.starting -= 1

    @classmethod
    async def _start_in(cls, cell: Cell, environment: Mapping[str, str], python: str) -> "ChildProcess":
        own = {"TMPDIR": str(cell.tmp)} | ({"HOME": str(cell.home)} if cell.home else {})
        said = tempfile.TemporaryFile(dir=cell.private)  # noqa: SIM115  # closed with the child
        ours, theirs = socket.socketpair()
        tokens, answers = Tokens(), Answers()
        process: asyncio.subprocess.Process | Forked
        with (
            theirs,
            tokens.inheriting() as token,
            answers.inheriting() as answer,
            effects.passing("process", "child"),
        ):
            if FORKING:
                order: Order = {
                    "plan": cell.plan(),
                    "python": python,
                    "environment": {**environment, **own},
                    "mark": cell.private.name,
                    "parent": cell.parent,
                }
                ours.sendall(frames.encode(frames.new_key(), order))
                server = ForkServer.of({**environment, "HOME": _NO_HOME} if cell.home else environment)
                process = await server.fork(theirs.fileno(), said.fileno(), token, answer)
            else:
                session = token, answer
                boot = _BOOT.format(root=_ROOT, needs=_NEEDS, fd=theirs.fileno(), session=session, parent=cell.parent)
                process = await asyncio.create_subprocess_exec(
                    *cell.command([python, "-P", "-c", boot]),
                    env={**environment, **own},
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=said,
                    pass_fds=(theirs.fileno(), *session),
                    start_new_session=True,
                )
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return cls(process, reader, writer, cell, environment.get("HOME"), said, tokens, answers)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self.death.done()

    async def run(
        self,
        job: ChildJob,
        memory_bytes_max: int | None = None,
        killed: dict[str, Any] | None = None,
        workspace: Path | None = None,
    ) -> dict[str, Any]:
        """Do a job, for which the child has the directory `workspace`; returns the child's answer.

        Raises TaskError (crash, output_invalid) if the child dies or replaces its directory, MemoryExceeded, OSError,
        CancelledError. Before that, the child is killed, and `killed` gets the resources that the job has used:
        cpu_seconds, memory_bytes_peak.
        """
        cpu_seconds_before = self._processes.program_cpu_seconds()
        try:
            if workspace is not None:
                self._given = await self._give(workspace)
            answer = await self._answer(job, memory_bytes_max)
            self._take_back()
            self.answered_at = time.monotonic()
            return answer
        except BaseException:
            if killed is not None and self.alive:
                killed["cpu_seconds"] = max(0.0, self._processes.cpu_seconds() - cpu_seconds_before)
                killed["memory_bytes_peak"] = self._processes.memory_bytes()
            await self.kill()
            raise

    async def _give(self, workspace: Path) -> Given:
        if (workspace / "input").is_dir():  # of any number of files, each of which may get another owner
            return await asyncio.to_thread(self.cell.give, workspace)
        return self.cell.give(workspace)

    def _take_back(self) -> None:
        given, self._given = self._given, None
        if given is not None:
            self.cell.take_back(given)

    async def _answer(self, job: ChildJob, memory_bytes_max: int | None) -> dict[str, Any]:
        was_killed = self.limit_memory(memory_bytes_max)
        answer = asyncio.ensure_future(self._ask(job))
        memory = MemoryWatch(self._processes.memory_bytes, memory_bytes_max, self.memory_bytes)
        try:
            while not (await self._wait(answer, memory.pause_seconds)):
                await memory.look()
            if memory_bytes_max and was_killed():
                raise MemoryExceeded(memory_bytes_max, memory_bytes_max)
            if answer.done() and not isinstance(answer.exception(), _DISCONNECTED):
                self._answered = True
                self.memory_bytes, self.clean = answer.result()["memory_bytes"], answer.result()["clean"]
                self.clean = self.clean and not self._processes.has_strays(self._marks)
                return answer.result()
            raise await self.crash()
        finally:
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)

    def limit_memory(self, memory_bytes_max: int | None) -> Callable[[], bool]:
        """Have the kernel hold it, if it can. The returned function says whether it has killed a process for that."""
        cgroup = self.cell.cgroup
        if cgroup is None:
            return lambda: False
        killed_before = cgroup.out_of_memory_kills
        cgroup.limit_memory(memory_bytes_max)
        return lambda: cgroup.out_of_memory_kills > killed_before

    async def _wait(self, answer: asyncio.Future[Any], seconds: float | None) -> bool:
        """Wait for the answer or the child's end; False if neither has come in time."""
        done, _ = await asyncio.wait([self.death, answer], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)

    async def _ask(self, job: ChildJob) -> dict[str, Any]:
        key = self._send(job)
        await self._writer.drain()
        length = _length(await self._reader.readexactly(frames.HEAD.size), key)
        return read_answer(await self._reader.readexactly(length))

    def _send(self, job: ChildJob | SessionJob) -> bytes:
        """Returns the key of the answers to it."""
        environment = job["environment"]
        if output := environment.get("PIECEWORK_OUTPUT"):
            self._marks = self._own_marks | {("PIECEWORK_OUTPUT", output)}
        elif environment.get(_SUBMIT_DIRECTORY) == job["directory"]:  # of a function, which has no output
            self._marks = self._own_marks | {(_SUBMIT_DIRECTORY, job["directory"])}
        elif records := environment.get("PIECEWORK_RECORDS"):  # of a session's tasks, whose outputs lie here and there
            self._marks = self._own_marks | {("PIECEWORK_RECORDS", records)}
        if self.cell.home and environment.get("HOME") in (None, self._worker_home):
            environment["HOME"] = str(self.cell.home)
        key = frames.new_key()
        self._writer.write(frames.encode(key, job))
        return key

    async def begin(self, job: SessionJob, workspace: Path, heard: Callable[[list[bytes]], None]) -> bytes:
        """Begin a session, for which the child has the directory; returns the key of what belongs to it.

        `heard` is called with the bodies of its answers. `talk` ends when nothing more comes, with the exception that
        says why: TaskError (crash), EOFError, ConnectionError, or what `heard` raises.
        """
        self._given = await self._give(workspace)
        key = self._send(job)
        self.talk = asyncio.ensure_future(self._hear(key, heard))
        return key

    def send(self, key: bytes, body: bytes) -> None:
        """Send more of a session. What the child does not take yet is kept in memory."""
        self._writer.write(frames.pack(key, body))

    async def _hear(self, key: bytes, heard: Callable[[list[bytes]], None]) -> None:
        kept = b""
        while True:
            read = await self._answers.read(at_once=bool(kept))  # for the rest of one the child may wait
            if not read:
                raise EOFError
            kept, at = kept + read, 0
            bodies: list[bytes] = []
            try:
                while len(kept) >= (begin := at + frames.HEAD.size):
                    end = begin + _length(kept[at:begin], key)
                    if len(kept) < end:
                        break
                    bodies.append(kept[begin:end])
                    at = end
            finally:  # what comes before something else counts
                heard(bodies)
            kept = kept[at:]

    def end_session(self, memory_bytes: int, *, clean: bool) -> None:
        """The child has ended a session by itself. Raises TaskError (output_invalid) if it replaced its directory."""
        assert self.talk is not None
        self.talk.cancel()
        self.talk = None
        self._take_back()
        self.memory_bytes, self.answered_at = memory_bytes, time.monotonic()
        self.clean = clean and not self._processes.has_strays(self._marks)

    def used(self) -> tuple[float, int]:
        """CPU seconds and bytes of memory of all its processes."""
        return self._processes.cpu_seconds(), self._processes.memory_bytes()

    async def watch_memory(self, memory_bytes_max: int) -> None:
        """Look until cancelled. Raises MemoryExceeded."""
        watch = MemoryWatch(self._processes.memory_bytes, memory_bytes_max, self.memory_bytes)
        while True:
            await asyncio.sleep(watch.pause_seconds or 0)
            await watch.look()

    async def crash(self) -> TaskError:
        """The reason for a missing answer: the child has died, or has closed its connection."""
        await asyncio.wait([self.death], timeout=_EXIT_SECONDS)
        if self.alive:
            return TaskError("crash", "the processor closed its process's connection to the worker")
        code = self.death.result()
        if code < 0:
            return TaskError("crash", killed_by(-code), exit_code=128 - code)
        said = os.pread(self._said.fileno(), _SAID_MAX, max(0, os.fstat(self._said.fileno()).st_size - _SAID_MAX))
        why = f": {said.decode(errors='replace').strip()}" if said else ""
        kind = NotStarted if said and not self._answered else TaskError
        return kind("crash", f"the process ended itself with exit code {code}{why}", exit_code=code)

    async def kill(self) -> None:
        """End the child and all its descendants at once."""
        if self._end is None:
            trackers = self._processes.kill(alive=self.alive)
            self._end = asyncio.ensure_future(self._clean_up(trackers))
        await asyncio.shield(self._end)  # whoever waits may be cancelled meanwhile

    async def _clean_up(self, trackers: list[psutil.Process]) -> None:
        await asyncio.to_thread(self._processes.kill_rest, trackers, self._marks)
        await asyncio.wait([self.death])
        if self.talk is not None:
            await asyncio.wait([self.talk], timeout=_EXIT_SECONDS)  # what it has said before
            self.talk.cancel()
            await asyncio.gather(self.talk, return_exceptions=True)
        self._writer.close()
        self.tokens.close()
        self._answers.close()
        self._processes.forget()
        with suppress(TaskError):  # the attempt has failed already
            self._take_back()
        self._said.close()
        await asyncio.to_thread(remove_tree, self.cell.private)
        await asyncio.to_thread(self.cell.close)


def _length(head: bytes, key: bytes) -> int:
    """Of the answer that follows. Raises TaskError (crash) if it is not the child's."""
    found, length = frames.HEAD.unpack(head)
    if found != key:
        raise TaskError("crash", "the processor wrote to its process's connection to the worker")
    if length > BYTES_MAX:
        raise TaskError("crash", f"the processor's process gave an answer of {length} bytes")
    return int(length)
