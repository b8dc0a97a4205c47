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


def be_killed_first() -> None:
    """Have the kernel end this process and its descendants, not the worker, when the node has no memory left."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


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
        with contextlib.suppress(OSError):
            if read(f"/proc/self/task/{thread}/children"):
                return True
    return False


def memory() -> tuple[int, int]:
    """Resident memory of this process in bytes (0 where it is unknown), and its peak since the last reset."""
    try:
        status = read("/proc/self/status")
        return _status_bytes(status, b"VmRSS:"), _status_bytes(status, b"VmHWM:")
    except (OSError, IndexError):  # not every kernel tells
        return 0, memory_bytes_of(resource.getrusage(resource.RUSAGE_SELF))


def reset_memory_peak() -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY)
        try:
            os.write(descriptor, b"5")
        finally:
            os.close(descriptor)


def memory_bytes_of(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1024 if _linux else 1)  # kilobytes on Linux, bytes on macOS


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def _status_bytes(status: bytes, field: bytes) -> int:
    return int(status.partition(field)[2].split(None, 1)[0]) * 1024


def read(path: str) -> bytes:
    """A small file of the kernel's; without Python's buffers, as this is done after every task."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 16)
    finally:
        os.close(descriptor)
