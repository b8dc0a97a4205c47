"""What is the node's fault and not the task's: such an attempt is released, and another worker tries the task.

An error of the operating system in the worker's own work (a directory, a lock, a child to be started) is the node's:
user code runs in other processes, which report their errors as TaskErrors. A full disk is the node's if it is still
full once the task's files are gone. And whatever an attempt has failed of, a node that is unfit at its end, or was
meanwhile, is at fault: a program that can't write its output tells nothing but an exit code.
"""

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from services.platform.threads import in_own_thread
from services.worker.isolation.errors import IsolationUnusable
from services.worker.task.packages import cache_directory
from services.worker.task.scratch import ScratchUnusable, open_lock

_FREE_SHARE = 0.05  # of a file system that is too small for the wanted free bytes
_FREE_FILES = 16
_PROBE = bytes(4096)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

# What the worker's own calls fail of on a node whose disk, memory or limits are at fault. Others tell of their
# arguments (E2BIG, EEXIST, EINVAL, ENAMETOOLONG …), which come from the task.
_OF_NODE = frozenset(
    {
        errno.EACCES,
        errno.EAGAIN,
        errno.EBADF,
        errno.EBUSY,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENODEV,
        errno.ENOENT,
        errno.ENOMEM,
        errno.ENOTCONN,
        errno.ENOTDIR,
        errno.ENXIO,
        errno.EPERM,
        errno.EROFS,
        errno.ESTALE,
        errno.ETXTBSY,
        errno.EUCLEAN,
    }
)


def is_of_node(error: BaseException) -> bool:
    """Whether the worker could not do its own part because of its node. A full disk is none of these."""
    if isinstance(error, OSError):
        return error.errno in _OF_NODE
    no_thread = isinstance(error, RuntimeError) and "start new thread" in str(error)
    return no_thread or isinstance(error, MemoryError | ScratchUnusable | IsolationUnusable)


class NodeHealth:
    """Looks whether attempts can work here, and makes the node's directories again if they are gone.

    `directory` is the node's own scratch directory, `cache` that of packages. Below `bytes_min` free bytes, or a
    twentieth of a small file system, a disk is full.
    """

    def __init__(self, directory: Path, cache: Path, bytes_min: int) -> None:
        self._directory = directory
        self._mode = stat.S_IMODE(directory.stat().st_mode)
        self._cache = cache
        self._bytes_min = bytes_min
        self._locks: list[BinaryIO] = []  # of the directories that were made again
        self._fault: tuple[float, str] | None = None  # the last one that was found, and when

    async def find_fault(self, since: float) -> str | None:
        """What is wrong with the node now, or was at some moment since then (monotonic); None: nothing is known."""
        if (fault := await self._look()) is not None:
            self._fault = time.monotonic(), fault
        if self._fault is not None and self._fault[0] >= since:
            return self._fault[1]
        return None

    async def _look(self) -> str | None:
        try:
            return await in_own_thread(self.look)
        except Exception as error:
            return str(error) or repr(error)

    def look(self) -> str | None:
        """What is wrong now. A directory that is gone is made again: then this was wrong."""
        was_gone = not self._directory.is_dir()
        try:
            if was_gone:
                self._make_again()
            cache_directory(self._cache)
            _write(self._directory)
            for directory in (self._directory, self._cache):
                if (fault := self._find_full(directory)) is not None:
                    return fault
        except (OSError, ScratchUnusable) as error:
            return f"its scratch directory was gone: {error}" if was_gone else str(error)
        return f"its scratch directory {self._directory} was gone" if was_gone else None

    def _make_again(self) -> None:
        """Raises OSError."""
        with suppress(NotADirectoryError, FileNotFoundError):
            self._directory.unlink()
        self._directory.mkdir(mode=0o700, parents=True)
        lock = open_lock(self._directory / "lock")
        self._locks.append(lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._directory.chmod(self._mode)

    def _find_full(self, directory: Path) -> str | None:
        found = os.statvfs(directory)
        free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        wanted = min(self._bytes_min, int(total * _FREE_SHARE))
        if free < wanted:
            return f"its disk is full: {free} bytes are free at {directory}, {wanted} are wanted"
        if found.f_files and found.f_favail < _FREE_FILES:
            return f"its disk has no room for more files at {directory}"
        return None


def _write(directory: Path) -> None:
    """Use the directory as an attempt does. Raises OSError."""
    probe = directory / f"probe-{time.monotonic_ns()}"
    probe.mkdir()
    try:
        with (probe / "file").open("xb") as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
        if (probe / "file").read_bytes() != _PROBE:
            raise OSError(errno.EIO, "what was written is not what is read", str(probe))
    finally:
        with suppress(OSError):
            (probe / "file").unlink()
        with suppress(OSError):
            probe.rmdir()
