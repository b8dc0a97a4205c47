"""Linux system calls that Python's own modules lack; on other systems they do nothing."""

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_FALLOC_FL_KEEP_SIZE_PUNCH_HOLE = 3
_WALL = 0x40000000
_PAGE_BYTES = resource.getpagesize()

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


def put_environment(variable: Any) -> None:
    """Make the text `NAME=VALUE` of this array of characters a variable, which changes with the array's contents.

    It must stay as long as the process (https://man7.org/linux/man-pages/man3/putenv.3.html).
    """
    _libc.putenv(variable)


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
    """Whether this process has children, of any thread (https://man7.org/linux/man-pages/man2/waitid.2.html)."""
    if not _linux:
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
    except ChildProcessError:
        return False
    return True


class _KernelFiles:
    """Files of the kernel about this process, kept open: they are used before and after every task."""

    def __init__(self) -> None:
        self.status = self.statm = self.clear_refs = self.descriptors = -1
        self.usage_tells_peak = False  # quicker than `status`


_files = _KernelFiles()


def keep_open() -> None:
    """Open what tells and resets this process's memory, and the list of its descriptors."""
    with contextlib.suppress(OSError):
        _files.status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        _files.statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        _files.clear_refs = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        _files.descriptors = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    _files.usage_tells_peak = _usage_tells_peak()


def _usage_tells_peak() -> bool:
    """Whether a reset shows there: what this process was before it executed a program stays in it for good."""
    reset_memory_peak()
    try:
        return _usage_peak() <= 1.1 * _status_bytes(os.pread(_files.status, 1 << 16, 0), b"VmHWM:")
    except (OSError, IndexError):
        return False


def memory() -> tuple[int, int]:
    """Resident memory of this process in bytes (0 where it is unknown), and its peak since the last reset."""
    try:
        if _files.usage_tells_peak:
            return int(os.pread(_files.statm, 1 << 10, 0).split(None, 2)[1]) * _PAGE_BYTES, _usage_peak()
        status = os.pread(_files.status, 1 << 16, 0)
        return _status_bytes(status, b"VmRSS:"), _status_bytes(status, b"VmHWM:")
    except (OSError, IndexError):  # not every kernel tells
        return 0, _usage_peak()


def _usage_peak() -> int:
    return memory_bytes_of(resource.getrusage(resource.RUSAGE_SELF))


def reset_memory_peak() -> None:
    with contextlib.suppress(OSError):
        os.write(_files.clear_refs, b"5")


def memory_bytes_of(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1024 if _linux else 1)  # kilobytes on Linux, bytes on macOS


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    programs = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + programs.ru_utime + programs.ru_stime


def usage_of_programs() -> resource.struct_rusage:
    """Of this process's children that have ended: it changes with each."""
    return resource.getrusage(resource.RUSAGE_CHILDREN)


def descriptors_mark() -> tuple[int, int] | None:
    """How many descriptors are open, and the lowest that is free: another mark after a task says that they are others.

    None where the kernel does not tell: before Linux 6.2 (https://docs.kernel.org/filesystems/proc.html, /proc/PID/fd).
    """
    try:
        count = os.fstat(_files.descriptors).st_size
        lowest = os.dup(0)
    except OSError:
        return None
    os.close(lowest)
    return (count, lowest) if count else None


def _status_bytes(status: bytes, field: bytes) -> int:
    return int(status.partition(field)[2].split(None, 1)[0]) * 1024


def read(path: str) -> bytes:
    """A small file of the kernel's; without Python's buffers, as this is done after every task."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 16)
    finally:
        os.close(descriptor)
