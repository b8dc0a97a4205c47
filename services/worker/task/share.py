"""A slot's share of its node."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_RESERVE_BYTES = 512 << 20  # for the worker itself
_RESERVE_PART = 8  # but of a small node only this part


@dataclass(frozen=True, slots=True)
class Share:
    """Cores and bytes of memory. A task that asks for more memory may have up to `memory_bytes_max`, the node's."""

    threads: int
    memory_bytes: int
    memory_bytes_max: int

    @classmethod
    def of_node(cls, slots: int) -> "Share":
        """That of each slot of this machine or container, after a reserve for the worker."""
        node = node_memory_bytes()
        left = node - min(_RESERVE_BYTES, node // _RESERVE_PART)
        return cls(max(1, (os.cpu_count() or 1) // slots), left // slots, left)

    def memory_of(self, wanted: int | None) -> int:
        """The bytes of memory that a task may use whose stage has this `memory_bytes`."""
        return self.memory_bytes if wanted is None else min(wanted, self.memory_bytes_max)

    def explain_memory(self, wanted: int | None) -> str:
        """Where that number comes from, and how to raise it."""
        if wanted is None:
            return "a slot's share of this node; set memory_bytes of the stage to allow more"
        if wanted > self.memory_bytes_max:
            return f"all that this node has for its tasks, although memory_bytes is {wanted}"
        return "by memory_bytes of the stage"


def node_memory_bytes(proc: Path = Path("/proc/self"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """The machine's memory or, if that is less, what the cgroups allow that this process is in.

    https://docs.kernel.org/admin-guide/cgroup-v2.html and https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
    """
    return min([psutil.virtual_memory().total, *_cgroup_limits(proc, cgroups)])


def _cgroup_limits(proc: Path, cgroups: Path) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for line in (proc / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                root, name = cgroups, "memory.max"
            elif "memory" in controllers.split(","):
                root, name = cgroups / "memory", "memory.limit_in_bytes"
            else:
                continue
            group = root / path.strip("/")
            for each in (group, *group.parents):
                with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                    yield int((each / name).read_text())
                if each == root:
                    break
