"""Linux system calls that Python's own modules lack; on other systems they do nothing."""

import contextlib
import ctypes
import os
import resource
import signal
import sys
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


def memory() -> tuple[int, int]:
    """Resident memory of this process in bytes (0 where it is unknown), and its peak since the last reset."""
    try:
        with open("/proc/self/status", "rb") as status:  # noqa: PTH123  # after every task: quicker so
            lines = dict(line.split(b":", 1) for line in status.read().splitlines())
        return int(lines[b"VmRSS"].split()[0]) * 1024, int(lines[b"VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        return 0, memory_bytes_of(resource.getrusage(resource.RUSAGE_SELF))


def reset_memory_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def memory_bytes_of(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1024 if _linux else 1)  # kilobytes on Linux, bytes on macOS


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )
