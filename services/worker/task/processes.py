"""The processes of a child, as the worker sees them: what they use, and how all of them are ended.

In a sandbox the worker's own child is the launcher; its child is the first process inside, whose child is the program.
"""

import contextlib
import os
import signal
import subprocess
from functools import cached_property
from typing import ClassVar

import psutil

from services.worker.child import linux
from services.worker.isolation.cells import Cell
from services.worker.task.memory_watch import tree_memory_bytes

_KILL_ROUNDS_MAX = 100  # limit, in case a program forks faster than it can be killed
_TRACKER_SECONDS = 2.0

Marks = set[tuple[str, str]]  # variables of the environment


class Processes:
    """All processes of a child; `pid` is the one that the worker has started. Those that have just ended count as 0."""

    adopts_orphans: ClassVar[bool] = False
    starting: ClassVar[int] = 0  # children that are not known here yet
    _started: ClassVar[set[int]] = set()  # by this worker, for any child, and what forks them

    def __init__(self, pid: int, cell: Cell) -> None:
        self.pid = pid
        self._started.add(pid)
        self._cell = cell
        self._program: psutil.Process | None = None

    @classmethod
    def await_elsewhere(cls, pid: int) -> None:
        """A child of the worker that is not a task's."""
        cls._started.add(pid)

    @classmethod
    def adopt_orphans(cls) -> None:
        """Make what tasks have sent away children of this process, so that it is found and reaped."""
        linux.adopt_orphans()
        cls.adopts_orphans = True

    def program_cpu_seconds(self) -> float:
        """CPU time of the child's program and of its children that have ended; 0 while it is being started."""
        if self._program is None:
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                self._program = psutil.Process(self._program_pid)
        return _cpu_seconds(self._program) if self._program else 0.0

    def cpu_seconds(self) -> float:
        return sum(map(_cpu_seconds, self._all()))

    def memory_bytes(self, enough: int = 0) -> int:
        """Their memory; what they share counts once if the sum is more than `enough`."""
        with contextlib.suppress(IndexError):
            return tree_memory_bytes(self._first_pid if self._cell.isolation == "sandbox" else self.pid, enough)
        return 0

    def has_strays(self, marks: Marks) -> bool:
        """Whether anything of a task has left the program: then it is below the first process inside, or the worker's.

        The latter holds only for a worker that adopts orphans. Their marks are variables of their environment.
        """
        if self._cell.isolation == "sandbox":
            try:
                return _children(self._first_pid) != [self._program_pid] or bool(_children(self._program_pid))
            except IndexError:
                return True
        orphans = set(_children(os.getpid())) - self._started
        return any(_is_of(pid, marks, self._cell.uid) for pid in orphans)

    def kill(self, *, alive: bool) -> list[psutil.Process]:
        """Kill all that can be found at once; `alive` says whether the process `pid` is. For `kill_rest` to end."""
        if self._cell.isolation == "sandbox":
            if alive:
                self._kill_sandbox()
            return []
        if self._cell.cgroup is not None:
            self._cell.cgroup.kill()
        trackers = _kill_tree(self.pid) if alive else []
        _kill_session(self.pid)
        return trackers

    def kill_rest(self, trackers: list[psutil.Process], marks: Marks) -> None:
        """What takes longer: wait for the trackers, and find orphans by user, or by the marks in their environment."""
        if self._cell.isolation == "sandbox":
            self._reap_orphans()  # the first process inside, if the launcher did not live to do it
            return
        psutil.wait_procs(trackers, _TRACKER_SECONDS)
        if self._cell.uid is not None:
            _kill_all_of(self._cell.uid)
        for pid in psutil.pids():
            if pid != self.pid and _is_of(pid, marks, self._cell.uid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._reap_orphans()

    def _reap_orphans(self) -> None:
        """Those that the worker has adopted; never a child of its own, whose end is awaited elsewhere."""
        found = _children(os.getpid())
        if self.adopts_orphans and not self.starting:
            for pid in set(found) - self._started:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def forget(self) -> None:
        """They have all ended."""
        self._started.discard(self.pid)

    def _kill_sandbox(self) -> None:
        """End the first process inside: the kernel then ends the others, and only after that does the launcher end.

        Not by the cgroup, which would end the launcher, too, before it has reaped the first process.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)  # from here on, it starts nothing
            first = _children(self.pid)
            for pid in first:
                os.kill(pid, signal.SIGKILL)
            os.kill(self.pid, signal.SIGCONT if first else signal.SIGKILL)

    def _all(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            if self._cell.isolation == "sandbox":
                return psutil.Process(self._first_pid).children(recursive=True)
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        return []

    @cached_property
    def _first_pid(self) -> int:
        """Raises IndexError while there is none."""
        return _children(self.pid)[0]

    @cached_property
    def _program_pid(self) -> int:
        """Raises IndexError while there is none."""
        return _children(self._first_pid)[0] if self._cell.isolation == "sandbox" else self.pid


def _children(pid: int) -> list[int]:
    """The children of all threads of a process, by the kernel's own lists; none if it has ended."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208  # after every task: quicker so
            with contextlib.suppress(OSError):
                found += map(int, linux.read(f"/proc/{pid}/task/{thread}/children").split())
    return found


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


def _is_of(pid: int, marks: Marks, uid: int | None) -> bool:
    """Whether a live process is of the child with these marks or this user: it may be in a session of its own."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        of_child = process.uids().real == uid if uid is not None else bool(marks & process.environ().items())
        return of_child and process.status() != psutil.STATUS_ZOMBIE
    return False


def _kill_all_of(uid: int) -> None:
    """As that user, since the kernel then takes all of its processes at once (kill(2)), faster than they can fork."""
    subprocess.run(["/bin/sh", "-c", "kill -9 -1"], user=uid, group=uid, extra_groups=[], check=False)


def _kill(process: psutil.Process) -> bool:
    """Kill the process; False if it was dead already."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True
