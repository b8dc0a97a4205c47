"""Linux system calls that Python's own modules lack; on other systems they do nothing."""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_FALLOC_FL_KEEP_SIZE_PUNCH_HOLE = 3

_libc = ctypes.CDLL(None, use_errno=True)
_linux = sys.platform == "linux"


def die_with_parent(signal_number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process the signal as soon as its parent ends."""
    if _linux:
        _libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def adopt_orphans() -> None:
    """Make orphaned descendants children of this process instead of init's, so that they can be found."""
    if _linux:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def free_range(descriptor: int, start: int, end: int) -> None:
    """Free the disk space of a range of a file, which then reads as zeros. Not every file system can do it."""
    if _linux and end > start:
        _libc.fallocate(
            descriptor, _FALLOC_FL_KEEP_SIZE_PUNCH_HOLE, ctypes.c_longlong(start), ctypes.c_longlong(end - start)
        )


def flush_stdio() -> None:
    """Flush the buffers of C's standard output and error."""
    _libc.fflush(None)


def kill_descendants() -> None:
    """Kill and reap every descendant of this process, including those that left its group or session."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(OSError):
        while pids := children.read_text().split():  # orphans of the killed become our children and are next
            for pid in map(int, pids):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def has_children() -> bool:
    """Whether this process has live descendants."""
    for thread in os.listdir("/proc/self/task") if _linux else ():  # noqa: PTH208  # after every task: quicker so
        with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/children") as children:  # noqa: PTH123
            if children.read():
                return True
    return False


def memory_bytes() -> int:
    """Resident memory of this process in bytes; 0 where it is unknown."""
    return _status_bytes("VmRSS:")


def reset_memory_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def memory_bytes_peak() -> int:
    """Peak resident memory of this process since the last reset."""
    return _status_bytes("VmHWM:") or memory_bytes_of(resource.getrusage(resource.RUSAGE_SELF))


def memory_bytes_of(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1024 if _linux else 1)  # kilobytes on Linux, bytes on macOS


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def _status_bytes(field: str) -> int:
    for line in _status_lines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def _status_lines() -> Iterator[str]:
    with contextlib.suppress(OSError), Path("/proc/self/status").open() as status:
        yield from status
