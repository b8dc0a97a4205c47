"""The worker's side of its fork servers (isolation/fork_server): start one, and have it fork children."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import ClassVar

from services.platform.threads import in_thread_or_undone
from services.worker.isolation import kernel
from services.worker.isolation.plan import FORK, MARK
from services.worker.task.processes import Processes

_ROOT = str(Path(__file__).parents[3])
_BOOT = (
    "import sys; sys.path[:0] = [{root!r}]; from services.worker.isolation.fork_server import serve; "
    "del sys.path[0]; serve({fd}, {worker})"
)
_SERVERS_MAX = 4
_PID_BYTES_MAX = 20
# What an interpreter reads as it starts. A child sets the rest, and these two, for itself.
_READ_AT_START = ("PYTHON*", "LANG", "LANGUAGE", "LC_*", "LD_*", "MALLOC_*", "GLIBC_TUNABLES", "HOME")
_OF_CHILDREN = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")

FORKING = kernel.can_fork_siblings()


class Forked:
    """A process that a fork server has forked, and whose parent is this one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    async def wait(self) -> int:
        """Its exit code, or the negative number of the signal that has ended it. To be called once."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
        return _reap(self.pid)


class ForkServer:
    """One process for all children that start with the same variables; it ends when this object or the worker does."""

    _running: ClassVar[dict[tuple[int, frozenset[tuple[str, str]]], "ForkServer"]] = {}

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT.format(root=_ROOT, fd=theirs.fileno(), worker=os.getpid())],
                env={**environment, MARK: "c-" + "x" * 8},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        Processes.await_elsewhere(self._process.pid)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "ForkServer":
        """The server of children with this environment: call it in the thread that lives as long as the worker."""
        read = {name: value for name, value in environment.items() if _is_read_at_start(name)}
        key = os.getpid(), frozenset(read.items())  # a copy of this process needs servers of its own
        server = cls._running.pop(key, None)
        if server is None or server._process.poll() is not None:
            server = cls(read)
        cls._running[key] = server
        own = [known for known in cls._running if known[0] == os.getpid()]
        for oldest in own[:-_SERVERS_MAX]:
            cls._running.pop(oldest)._end()
        return server

    def _end(self) -> None:
        with self._lock:
            self._channel.close()
        self._process.wait()

    async def fork(self, *descriptors: int) -> Forked:
        """Fork a child with what `serve` says that it gets. Raises OSError if the server has ended."""
        return Forked(await in_thread_or_undone(partial(self._fork, descriptors), _kill))

    def _fork(self, descriptors: Sequence[int]) -> int:
        with self._lock:
            socket.send_fds(self._channel, [FORK], descriptors)
            answer = self._channel.recv(_PID_BYTES_MAX)
        if not answer:
            raise OSError("the fork server of the tasks' processes has ended")
        return int(answer)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    _reap(pid)


def _reap(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _is_read_at_start(name: str) -> bool:
    return name not in _OF_CHILDREN and any(fnmatchcase(name, pattern) for pattern in _READ_AT_START)
