"""The room of a node: slots for tasks that ask for nothing, and parts of the node for bundles that do.

A part takes as many slots as no longer fit beside it, so nothing changes on a node whose tasks ask for nothing.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from services.contract.resources import Capacity, Needs
from services.worker.task.hardware import Hardware
from services.worker.task.warm_children import WarmChildren


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What a bundle holds of the node, from its claim to its end; `gpus` by their names."""

    size: Capacity
    gpus: tuple[str, ...]
    children: WarmChildren


class Room:
    """`free` are the slots that are open and not in use, each with its child processes; `children` makes more."""

    def __init__(self, hardware: Hardware, slots: int, children: Callable[[], WarmChildren]) -> None:
        self.slots = slots
        self.free: asyncio.LifoQueue[WarmChildren] = asyncio.LifoQueue()
        self.all_children: list[WarmChildren] = []
        self._capacity = hardware.capacity
        self._share = hardware.capacity.share(slots)
        self._make_children = children
        self._gpus = list(hardware.gpus)  # that are free
        self._parts: set[Part] = set()
        self._taken = Capacity()
        self._reserved = Capacity()
        self._closed = 0  # slots
        self._spare: list[WarmChildren] = []  # of closed slots, and of former parts
        for _ in range(slots):
            self.free.put_nowait(self._new_children())

    @property
    def open(self) -> int:
        """Slots that tasks which ask for nothing use."""
        return self.slots - self._closed

    @property
    def offered(self) -> int:
        """Slots that such tasks may use from now on."""
        return min(self.open, self._count_open(self._taken + self._reserved))

    def reserve(self, needs: Needs | None) -> None:
        """Take nothing any more that keeps such a bundle from its room; None: whatever fits."""
        self._reserved = Capacity() if needs is None else self._capacity.part(needs, self.slots)

    def may_hold(self, needs: Needs) -> bool:
        """Whether it does when nothing else runs here."""
        return self._capacity.holds(self._capacity.part(needs, self.slots))

    def count(self, needs: Needs, in_slots: int) -> int:
        """How many such bundles may begin, beside this many tasks that are in slots or wait for one."""
        return self._count(self._taken + self._reserved, needs, in_slots)

    def has_reserved(self, needs: Needs, in_slots: int) -> bool:
        """Whether the bundle fits for which room was reserved."""
        return self._count(self._taken, needs, in_slots) > 0

    def _count(self, taken: Capacity, needs: Needs, in_slots: int) -> int:
        left = self._capacity - taken - self._share * min(in_slots, self.open)
        return max(0, left.count(self._capacity.part(needs, self.slots)))

    def take(self, needs: Needs, in_slots: int, *, reserved: bool = False) -> Part | None:
        """A part of the node, if there is one now, beside this many tasks that are in slots or wait for one.

        `reserved`: it is for the bundle for which room was reserved.
        """
        size = self._capacity.part(needs, self.slots)
        closed = self.slots - self._count_open(self._taken + size)
        fits = self.has_reserved(needs, in_slots) if reserved else self.count(needs, in_slots) > 0
        if not fits or closed - self._closed > self.free.qsize():
            return None
        self._close(closed)
        gpus = tuple(self._gpus.pop(0) for _ in range(size.gpus))
        part = Part(size, gpus, self._spare.pop() if self._spare else self._new_children())
        self._parts.add(part)
        self._taken += size
        return part

    def give_back(self, part: Part) -> None:
        """Safe to repeat."""
        if part not in self._parts:
            return
        self._parts.remove(part)
        self._gpus.extend(part.gpus)
        self._spare.append(part.children)
        self._taken = self._taken - part.size if self._parts else Capacity()  # sums of fractions leave dust
        self._close(self.slots - self._count_open(self._taken))

    def _count_open(self, taken: Capacity) -> int:
        if taken == Capacity():
            return self.slots
        return max(0, min(self.slots, (self._capacity - taken).count(self._share)))

    def _close(self, closed: int) -> None:
        """Have this many slots closed."""
        while self._closed < closed:
            self._spare.append(self.free.get_nowait())
            self._closed += 1
        while self._closed > closed:
            self.free.put_nowait(self._spare.pop() if self._spare else self._new_children())
            self._closed -= 1

    def _new_children(self) -> WarmChildren:
        children = self._make_children()
        self.all_children.append(children)
        return children
