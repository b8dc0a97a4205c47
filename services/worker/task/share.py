"""A slot's share of its node."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from services.contract.resources import Capacity
from services.engine.attempt import StageWork

_RESERVE_BYTES = 512 << 20  # for the worker itself
_RESERVE_PART = 8  # but of a small node only this part


@dataclass(frozen=True, slots=True)
class Share:
    """Cores, with fractions, and bytes of memory. By its `memory_bytes`, a task may have up to `memory_bytes_max`.

    `gpus` are those that it has for itself, by name; None: it asks for nothing, and sees what the worker sees.
    """

    cpus: float
    memory_bytes: int
    memory_bytes_max: int
    gpus: tuple[str, ...] | None = None
    asked: bool = False  # for this much memory

    @classmethod
    def of_node(cls, slots: int, capacity: Capacity | None = None) -> "Share":
        """That of each slot of a node, or of this machine or container."""
        node = capacity or Capacity(node_cpus(), tasks_memory_bytes())
        part = node.share(slots)
        return cls(part.cpus, part.memory, node.memory)

    def of_part(self, stage: StageWork, part: Capacity, gpus: tuple[str, ...]) -> "Share":
        """That of a task of a stage that asks for a part of the node."""
        asked = stage.memory is not None
        return replace(self, cpus=part.cpus, memory_bytes=part.memory, gpus=gpus, asked=asked)

    @property
    def threads(self) -> int:
        """As many as have a core each."""
        return max(1, int(self.cpus))

    def memory_of(self, wanted: int | None) -> int:
        """The bytes of memory that a task may use whose stage has this `memory_bytes`."""
        return self.memory_bytes if wanted is None else min(wanted, self.memory_bytes_max)

    def explain_memory(self, wanted: int | None) -> str:
        """Where that number comes from, and how to raise it."""
        if wanted is None and self.asked:
            return "the memory that the stage asks for; ask for more"
        if wanted is None:
            return "a slot's share of this node; set memory_bytes of the stage to allow more"
        if wanted > self.memory_bytes_max:
            return f"all that this node has for its tasks, although memory_bytes is {wanted}"
        return "by memory_bytes of the stage"


def tasks_memory_bytes() -> int:
    """The node's memory for its tasks, after a reserve for the worker."""
    node = node_memory_bytes()
    return node - min(_RESERVE_BYTES, node // _RESERVE_PART)


def node_cpus(proc: Path = Path("/proc/self"), cgroups: Path = Path("/sys/fs/cgroup")) -> float:
    """The cores that this process may use, or what its cgroups allow of them, if that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([float(cores), *_cgroup_limits(proc, cgroups, "cpu", "cpu.max", _cores_of)])


def _cores_of(text: str) -> float:
    """Of the quota and the period in microseconds. Raises ValueError if there is no quota."""
    quota, period = map(int, text.split())
    return max(quota / period, 0.01)


def node_memory_bytes(proc: Path = Path("/proc/self"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """The machine's memory or, if that is less, what the cgroups allow that this process is in.

    https://docs.kernel.org/admin-guide/cgroup-v2.html and https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
    """
    limits = _cgroup_limits(proc, cgroups, "memory", "memory.max", int, "memory.limit_in_bytes")
    return int(min([psutil.virtual_memory().total, *limits]))


def _cgroup_limits(
    proc: Path, cgroups: Path, controller: str, file: str, read: Callable[[str], float], file_of_1: str | None = None
) -> Iterator[float]:
    """What a file of each of the process's cgroups says; `file_of_1` is that of version 1."""
    with contextlib.suppress(OSError):
        for line in (proc / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                root, name = cgroups, file
            elif file_of_1 is not None and controller in controllers.split(","):
                root, name = cgroups / controller, file_of_1
            else:
                continue
            group = root / path.strip("/")
            for each in (group, *group.parents):
                with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                    yield read((each / name).read_text())
                if each == root:
                    break
