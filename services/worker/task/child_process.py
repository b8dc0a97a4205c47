"""The worker's side of a slot's child process: start it, give it jobs, end it with all its descendants."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from services.contract.task_error import TaskError
from services.platform import effects
from services.worker.child import frames
from services.worker.child.commands import killed_by
from services.worker.child.job import ChildJob
from services.worker.task.answer import BYTES_MAX, read_answer
from services.worker.task.memory_watch import MemoryWatch, tree_memory_bytes
from services.worker.task.scratch import remove_tree

_ROOT = str(Path(__file__).parents[3])
_BOOT = (
    "import sys; sys.path[:0] = [{root!r}]; sys.path += [p for p in {needs!r} if p not in sys.path]; "
    "from services.worker.child.program import main; main({fd}, {parent})"
)
# Where the child's requirements are installed, for an interpreter of another environment.
_NEEDS = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
_EXIT_SECONDS = 5.0
_TRACKER_SECONDS = 2.0
_DISCONNECTED = (EOFError, ConnectionError)
_KILL_ROUNDS_MAX = 100  # limit, in case a program forks faster than it can be killed


class ChildProcess:
    """One running child. It does one job at a time; after any exception from `run` it is gone."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        tmp: Path,
    ) -> None:
        self.tmp = tmp  # its TMPDIR until it gets a job, removed with it
        self._process = process
        self._usage: psutil.Process | None = None
        self._death = asyncio.ensure_future(process.wait())
        self._reader = reader
        self._writer = writer
        self._marks = {("TMPDIR", str(tmp))}  # variables that only its descendants have
        self.memory_bytes = 0  # resident memory at its last answer
        self.clean = True  # its last job has left nothing behind that the next could meet

    @classmethod
    async def start(
        cls, environment: Mapping[str, str], directory: Path, python: str = sys.executable
    ) -> "ChildProcess":
        """Start a child in its own session, so that it gets no signals of the terminal.

        Its temporary files go below the directory.
        """
        tmp = Path(tempfile.mkdtemp(prefix="c-", dir=directory))
        ours, theirs = socket.socketpair()
        with theirs, effects.passing("process", "child"):
            boot = _BOOT.format(root=_ROOT, needs=_NEEDS, fd=theirs.fileno(), parent=os.getpid())
            process = await asyncio.create_subprocess_exec(
                python,
                "-P",
                "-c",
                boot,
                env={**environment, "TMPDIR": str(tmp)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return cls(process, reader, writer, tmp)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._death.done()

    async def run(
        self, job: ChildJob, memory_bytes_max: int | None = None, killed: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Do a job; returns the child's answer.

        Raises TaskError (crash) if the child dies, MemoryExceeded, or CancelledError. Before that, the child is killed,
        and `killed` gets the resources that the job has used: cpu_seconds, memory_bytes_peak.
        """
        if self._usage is None and self.alive:
            self._usage = psutil.Process(self.pid)
        cpu_seconds_before = _cpu_seconds(self._usage) if self._usage else 0.0
        answer = asyncio.ensure_future(self._ask(job))
        memory = MemoryWatch(self.pid, memory_bytes_max, self.memory_bytes)
        try:
            while not (await self._wait(answer, memory.pause_seconds)):
                await memory.look()
            if answer.done() and not isinstance(answer.exception(), _DISCONNECTED):
                self.memory_bytes, self.clean = answer.result()["memory_bytes"], answer.result()["clean"]
                return answer.result()
            raise await self._crash()
        except BaseException:
            if killed is not None and self.alive:
                killed["cpu_seconds"] = max(0.0, _tree_cpu_seconds(self.pid) - cpu_seconds_before)
                killed["memory_bytes_peak"] = tree_memory_bytes(self.pid)
            await self.kill()
            raise
        finally:
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)

    async def _wait(self, answer: asyncio.Future[Any], seconds: float | None) -> bool:
        """Wait for the answer or the child's end; False if neither has come in time."""
        done, _ = await asyncio.wait([self._death, answer], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)

    async def _ask(self, job: ChildJob) -> dict[str, Any]:
        if output := job["environment"].get("PIECEWORK_OUTPUT"):
            self._marks = {("TMPDIR", str(self.tmp)), ("PIECEWORK_OUTPUT", output)}
        key = frames.new_key()
        self._writer.write(frames.encode(key, job))
        await self._writer.drain()
        found, length = frames.HEAD.unpack(await self._reader.readexactly(frames.HEAD.size))
        if found != key:
            raise TaskError("crash", "the processor wrote to its process's connection to the worker")
        if length > BYTES_MAX:
            raise TaskError("crash", f"the processor's process gave an answer of {length} bytes")
        return read_answer(await self._reader.readexactly(length))

    async def _crash(self) -> TaskError:
        """The reason for a missing answer: the child has died, or has closed its connection."""
        await asyncio.wait([self._death], timeout=_EXIT_SECONDS)
        if self.alive:
            return TaskError("crash", "the processor closed its process's connection to the worker")
        code = self._death.result()
        if code >= 0:
            return TaskError("crash", f"the process ended itself with exit code {code}", exit_code=code)
        return TaskError("crash", killed_by(-code), exit_code=128 - code)

    async def kill(self) -> None:
        """End the child and all its descendants at once."""
        self._writer.close()
        if not self.alive:
            await asyncio.to_thread(_kill_marked, self._marks)
        elif trackers := _kill_tree(self.pid):
            await asyncio.to_thread(psutil.wait_procs, trackers, _TRACKER_SECONDS)
        _kill_session(self.pid)
        await asyncio.wait([self._death])
        await asyncio.to_thread(remove_tree, self.tmp)


def _tree_cpu_seconds(pid: int) -> float:
    """CPU time of a process and of its descendants."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return sum(_cpu_seconds(process) for process in [root, *root.children(recursive=True)])
    return 0.0


def _cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process and of its children that have ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


def _kill_tree(pid: int) -> list[psutil.Process]:
    """Stop the root so that it starts nothing new (it adopts orphans), kill its descendants, then the root.

    Returns those that are left: Python's resource trackers. They know the shared memory and semaphores in /dev/shm that
    the others have made, and end when they have removed them.
    """
    trackers: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        root.suspend()
        for _ in range(_KILL_ROUNDS_MAX):
            children = root.children(recursive=True)
            trackers = list(filter(_is_tracker, children))
            if not sum(_kill(child) for child in children if child not in trackers):
                break
        root.kill()
    return trackers


def _is_tracker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any("resource_tracker import main" in argument for argument in process.cmdline())
    return False


def _kill_session(session_id: int) -> None:
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getsid(pid) == session_id:
                os.kill(pid, signal.SIGKILL)


def _kill_marked(marks: set[tuple[str, str]]) -> None:
    """Kill daemons of a child that has died: its orphans, in sessions of their own, are no longer below it."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if marks & process.environ().items():
                process.kill()


def _kill(process: psutil.Process) -> bool:
    """Kill the process; False if it was dead already."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True
