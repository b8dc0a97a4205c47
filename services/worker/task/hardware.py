"""What a node has for its tasks, as the machine or its container says, or as its settings do."""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.contract.resources import Capacity
from services.platform.settings import WorkerSettings
from services.worker.task.share import node_cpus, tasks_memory_bytes


@dataclass(frozen=True, slots=True)
class Hardware:
    """`gpus` are the names by which CUDA_VISIBLE_DEVICES selects the node's GPUs."""

    capacity: Capacity
    gpus: tuple[str, ...]

    @classmethod
    def of_node(cls, settings: WorkerSettings, scratch: Path) -> "Hardware":
        """Settings come before what is found. `scratch` is where tasks write; what is needed there stays free."""
        found = find_gpus()
        names = found if settings.gpus is None else _name_gpus(found, settings.gpus)
        disk = settings.disk or max(0, shutil.disk_usage(scratch).free - settings.disk_bytes_min)
        cpus, memory = settings.cpus or node_cpus(), settings.memory or tasks_memory_bytes()
        return cls(Capacity(cpus, memory, len(names), disk), names)


def find_gpus(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> tuple[str, ...]:
    """Those that the worker may use: as CUDA_VISIBLE_DEVICES lists them, or else by NVIDIA's device files.

    https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html
    """
    if (listed := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return listed_gpus(listed)
    count = sum(re.fullmatch("nvidia[0-9]+", path.name) is not None for path in devices.glob("nvidia*"))
    return tuple(map(str, range(count)))


def listed_gpus(visible: str) -> tuple[str, ...]:
    """The GPUs that a value of CUDA_VISIBLE_DEVICES names."""
    names = [name.strip() for name in visible.split(",")]
    return tuple(name for name in names if name and name not in ("-1", "NoDevFiles"))


def _name_gpus(found: tuple[str, ...], count: int) -> tuple[str, ...]:
    """This many: of those that were found, or numbered if fewer were."""
    return found[:count] if count <= len(found) else tuple(map(str, range(count)))
