"""Looks at the memory of a process and its descendants while they run, and tells when it is too much.

What counts is memory that the kernel can't take back: not pages of files, which a program that maps its input has.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

_PAUSE_SECONDS_MAX = 0.2
_PAUSE_SECONDS_MIN = 0.02
_GROWTH_BYTES = 4 << 30  # a second, of a program that does nothing else
_PAUSES_PER_LOOK = 9  # a look that takes long is followed by a pause this many times as long

_CHILDREN_TOLD = Path("/proc/thread-self/children").exists()  # by the kernel: psutil must look at all processes


class MemoryExceeded(Exception):
    """A process and its descendants together used more memory than they may."""

    def __init__(self, memory_bytes: int, memory_bytes_max: int) -> None:
        super().__init__(f"used {memory_bytes} bytes of memory, {memory_bytes_max} are allowed")
        self.memory_bytes = memory_bytes


class MemoryWatch:
    """Look again after each `pause_seconds`: before the rest of the memory can be full, but 0.2 s at most.

    So a task that is shorter is never looked at. Without a limit there is no pause: None.
    """

    def __init__(self, measure: Callable[[int], int], memory_bytes_max: int | None, memory_bytes: int) -> None:
        """`memory_bytes` are in use now; `measure`, given the limit, returns how many are later."""
        self._measure = measure
        self._limit = memory_bytes_max
        self.pause_seconds = None if memory_bytes_max is None else _seconds_until(memory_bytes_max - memory_bytes)

    async def look(self) -> None:
        """Raises MemoryExceeded."""
        assert self._limit is not None
        began = time.monotonic()
        memory_bytes = await asyncio.to_thread(self._measure, self._limit)
        if memory_bytes > self._limit:
            raise MemoryExceeded(memory_bytes, self._limit)
        looked = time.monotonic() - began
        self.pause_seconds = max(_seconds_until(self._limit - memory_bytes), looked * _PAUSES_PER_LOOK)


def _seconds_until(room: int) -> float:
    """How long it takes to fill this much memory."""
    return min(_PAUSE_SECONDS_MAX, max(_PAUSE_SECONDS_MIN, room / _GROWTH_BYTES))


def tree_memory_bytes(pid: int, enough: int = 0) -> int:
    """The memory of a process and its descendants; processes that have just ended count as 0.

    Memory that several of them share counts once if the sum is more than `enough`; to find that out takes longer.
    """
    pids = list(_tree(pid))
    total = sum(map(_memory_bytes, pids))
    return total if total <= enough else min(total, sum(map(_own_memory_bytes, pids)))


def _tree(pid: int) -> Iterator[int]:
    if not _CHILDREN_TOLD:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield from [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        return
    pids = [pid]
    for each in pids:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{each}/task"):  # noqa: PTH208  # many times a second: quicker so
                pids += map(int, _read(f"/proc/{each}/task/{thread}/children").split())
        yield each


def _memory_bytes(pid: int) -> int:
    """https://man7.org/linux/man-pages/man5/proc_pid_status.5.html"""
    try:
        fields = _fields(f"/proc/{pid}/status")
        return sum(fields[name] for name in (b"RssAnon", b"RssShmem", b"VmSwap"))
    except (OSError, KeyError):  # it has ended, or this is not Linux
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(pid).memory_info().rss) if not _CHILDREN_TOLD else 0
    return 0


def _own_memory_bytes(pid: int) -> int:
    """With its part of what it shares: https://docs.kernel.org/filesystems/proc.html#smaps-rollup."""
    try:
        fields = _fields(f"/proc/{pid}/smaps_rollup")
        return sum(fields[name] for name in (b"Pss_Anon", b"Pss_Shmem", b"SwapPss"))
    except (OSError, KeyError):  # only its owner may read it
        return _memory_bytes(pid)


def _fields(path: str) -> dict[bytes, int]:
    """The fields of the file that are numbers of bytes."""
    split = (line.split() for line in _read(path).splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 for words in split if len(words) == 3 and words[2] == b"kB"}


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 16)
    finally:
        os.close(descriptor)
