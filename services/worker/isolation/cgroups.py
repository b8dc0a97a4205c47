"""A cgroup for each child, where the worker has a writable part of the cgroup v2 tree (cgroups(7), cgroup-v2.rst).

Limits need the tree's controllers, which the parent passes on only if no process is in the parent itself: the worker
then moves into a cgroup of its own first. Without controllers, a cgroup still kills all its processes at once.
"""

import contextlib
import itertools
import os
from pathlib import Path

import psutil

_CONTROLLERS = ("memory", "pids", "cpu")
_numbers = itertools.count()


class Cgroup:
    """One child's; `directory` is where its processes enlist."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._memory_bytes_max: int | None = None

    def limit_memory(self, memory_bytes_max: int | None) -> None:
        if memory_bytes_max == self._memory_bytes_max:  # as most often, before each task
            return
        if self._set("memory.max", str(memory_bytes_max or "max")):
            self._memory_bytes_max = memory_bytes_max

    def limit_processes(self, processes_max: int) -> None:
        self._set("pids.max", str(processes_max))

    @property
    def out_of_memory_kills(self) -> int:
        """How often the kernel has killed a process here because of the limit."""
        with contextlib.suppress(OSError, StopIteration):
            events = (self.directory / "memory.events").read_text().split("\n")
            return next(int(line.split()[1]) for line in events if line.startswith("oom_kill "))
        return 0

    def kill(self) -> None:
        """Kill all that is in it, whatever it has become. Linux 5.14."""
        with contextlib.suppress(OSError):
            (self.directory / "cgroup.kill").write_text("1")

    def remove(self) -> bool:
        """False if that must be tried again: the kernel may not have forgotten its last process yet."""
        try:
            self.directory.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def _set(self, name: str, value: str) -> bool:
        with contextlib.suppress(OSError):  # the controller is not passed on to us
            (self.directory / name).write_text(value)
            return True
        return False


class Cgroups:
    """Makes the children's cgroups below `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ended: list[Cgroup] = []

    @classmethod
    def find(cls) -> "Cgroups | None":
        """Those below the worker's own cgroup; None where there is no v2 tree, or none that it may write to."""
        try:
            own = _own_directory()
            if own is None or not os.access(own, os.W_OK):
                return None
            cgroups = cls(own)
            cgroups.end(cgroups.make())
            _pass_on_controllers(own)
            cgroups._end_leftovers()
        except OSError:
            return None
        return cgroups

    def make(self) -> Cgroup:
        """Raises OSError."""
        self._ended = [cgroup for cgroup in self._ended if not cgroup.remove()]
        directory = self._directory / f"piecework-{os.getpid()}-{next(_numbers)}"
        directory.mkdir()
        return Cgroup(directory)

    def end(self, cgroup: Cgroup) -> None:
        """Kill what is left in it, and remove it."""
        cgroup.kill()
        if not cgroup.remove():
            self._ended.append(cgroup)

    def _end_leftovers(self) -> None:
        """Those of workers that have died."""
        for directory in self._directory.glob("piecework-*-*"):
            if not psutil.pid_exists(int(directory.name.split("-")[1])):
                self.end(Cgroup(directory))


def _own_directory() -> Path | None:
    own = next(
        (line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), None
    )
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    tree = next((fields[1] for fields in mounts if fields[2] == "cgroup2"), None)
    return Path(tree + own) if own is not None and tree is not None else None


def _pass_on_controllers(own: Path) -> None:
    """As far as can be: the worker must be alone in its cgroup, as a service of systemd with Delegate=yes is."""
    offered = (own / "cgroup.controllers").read_text().split()
    wanted = " ".join(f"+{name}" for name in _CONTROLLERS if name in offered)
    if not wanted or (own / "cgroup.procs").read_text().split() != [str(os.getpid())]:
        return
    with contextlib.suppress(OSError):
        (own / "worker").mkdir(exist_ok=True)
        (own / "worker" / "cgroup.procs").write_text(str(os.getpid()))
        (own / "cgroup.subtree_control").write_text(wanted)
