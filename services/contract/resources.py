"""What a task needs of a node, and what a node has for its tasks."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

_TINY = 1e-9  # what sums of fractions of cores may be off by


@dataclass(frozen=True, slots=True)
class Needs:
    """What each task of a stage asks for: cores, bytes of memory, GPUs, bytes of disk. None: it does not say.

    A stage that asks for nothing has no needs at all (None).
    """

    cpus: float | None = None
    memory: int | None = None
    gpus: int | None = None
    disk: int | None = None

    @classmethod
    def of(cls, value: Any) -> "Needs | None":
        """Those of a row or a message; None if nothing is asked for. Raises ValueError if they are not numbers above 0.

        Others of a later release are ignored: Postgres lets nobody claim for them who does not have them.
        """
        if value is None:
            return None
        if not isinstance(value, dict):
            raise ValueError(f"needs = {value!r:.100} is not an object")
        known = {name: each for name, each in value.items() if name in _NAMES}
        if not all(type(each) in (int, float) and 0 < each < math.inf for each in known.values()):
            raise ValueError(f"needs = {value!r:.100} are not numbers above 0")
        return cls(**known) if known else None

    def to_json(self) -> dict[str, float]:
        """Only what is asked for."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        return describe(self.to_json())


_NAMES = frozenset(field.name for field in fields(Needs))


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a node has for its tasks, or a part of it: cores, bytes of memory, GPUs, bytes of disk."""

    cpus: float = 0.0
    memory: int = 0
    gpus: int = 0
    disk: int = 0

    @classmethod
    def of(cls, row: Any) -> "Capacity":
        """That of a worker's row which says what its node has."""
        return cls(**{name: row[name] for name in _NAMES})

    def share(self, slots: int) -> "Capacity":
        """What a task takes that asks for nothing."""
        return Capacity(self.cpus / slots, self.memory // slots)

    def part(self, needs: Needs, slots: int) -> "Capacity":
        """What a task with these needs takes: of cores and memory a slot's share if it does not say."""
        return Capacity(**(asdict(self.share(slots)) | needs.to_json()))

    def count(self, part: "Capacity") -> int:
        """How many such parts fit into it."""
        pairs = [(getattr(self, name), getattr(part, name)) for name in _NAMES]
        return int(min((whole / each + _TINY for whole, each in pairs if each > 0), default=0))

    def holds(self, part: "Capacity") -> bool:
        return all(getattr(part, name) <= getattr(self, name) + _TINY for name in _NAMES)

    def __add__(self, other: "Capacity") -> "Capacity":
        return Capacity(**{name: getattr(self, name) + getattr(other, name) for name in _NAMES})

    def __sub__(self, other: "Capacity") -> "Capacity":
        return Capacity(**{name: getattr(self, name) - getattr(other, name) for name in _NAMES})

    def __mul__(self, times: int) -> "Capacity":
        return Capacity(**{name: getattr(self, name) * times for name in _NAMES})

    def __str__(self) -> str:
        return describe(asdict(self))


def describe(amounts: Mapping[str, Any]) -> str:
    """Such as "4 cpus, 16 GiB of memory, 1 gpu"."""
    return ", ".join(_describe(name, value) for name, value in amounts.items())


def _describe(name: str, value: float) -> str:
    if name in ("memory", "disk"):
        power = min(4, max(0, (int(value).bit_length() - 1) // 10))
        return f"{value / 1024**power:.4g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]} of {name}"
    return f"{value:g} {name[:-1] if value == 1 else name}"
