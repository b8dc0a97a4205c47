"""What other processes may see of this one: not its settings and credentials, which came with its environment.

On Linux only: elsewhere both functions do nothing.
"""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

# What may still be read from outside, as `make status` and the search for strays do. No secret is ever in them.
_SHOWN = ("PIECEWORK_STACK", "PIECEWORK_INSTANCE_ID", "PIECEWORK_POOL")

_PR_SET_DUMPABLE = 4
_ENV_START, _ENV_END = 49, 50  # fields of /proc/self/stat, counted from 0: proc_pid_stat(5)


def hide_environment() -> None:
    """Overwrite the environment that the process was started with, which /proc/PID/environ shows.

    `os.environ` and C's getenv keep all of it: AWS's libraries read credentials there again when they expire.
    """
    with contextlib.suppress(OSError):
        fields = _stat_fields()
        start, end = int(fields[_ENV_START]), int(fields[_ENV_END])
        if start == 0 or end <= start:
            return
        for name, value in list(os.environ.items()):
            os.environ[name] = value  # C makes a copy of its own, so that nothing points to what is overwritten
        shown = b"".join(os.fsencode(f"{name}={os.environ[name]}") + b"\0" for name in _SHOWN if name in os.environ)[
            : end - start
        ]
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, shown, len(shown))


def forbid_dumps() -> None:
    """Let no other process of the same user read this one's memory or environment, or attach to it.

    It leaves no core dump, and its files in /proc belong to root (PR_SET_DUMPABLE, prctl(2)). A program that it starts
    is not concerned.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _stat_fields() -> list[str]:
    """Of /proc/self/stat; its second one, the program's name in parentheses, may hold anything."""
    name_and_before, _, after = Path("/proc/self/stat").read_text().rpartition(")")
    return [*name_and_before.split(" (", 1), *after.split()]
