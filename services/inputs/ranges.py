"""Objects cut by byte range: targets are evenly spaced, and each moves to the next possible cut."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from services.platform.concurrency import map_at_most

PARTS_PER_CHUNK = 256
READS_AT_ONCE = 32

FindCut = Callable[[int, int], Awaitable[int | None]]


@dataclass(frozen=True, slots=True)
class Ranges:
    """The next parts, each `start … end - 1`, and where to continue. `share` is the part of the object cut so far."""

    parts: list[tuple[int, int]]
    cursor: dict[str, Any]
    done: bool
    share: float | None


def first_cursor(start: int, size: int, part_bytes: int) -> dict[str, int]:
    """The first cursor, for an object of `size` bytes whose first part begins at `start`."""
    return {"bytes": size, "part_bytes": part_bytes, "start": start, "target": start}


async def cut_ranges(cursor: dict[str, Any], find: FindCut) -> Ranges:
    """`find` returns the first place to cut in `target … end - 1`, or None, which extends the part."""
    part_bytes, size = cursor["part_bytes"], cursor["bytes"]
    targets = range(cursor["target"] + part_bytes, size, part_bytes)[:PARTS_PER_CHUNK]
    found = await map_at_most(READS_AT_ONCE, lambda target: find(target, min(target + part_bytes, size)), targets)
    cuts = [cursor["start"], *(cut for cut in found if cut is not None)]
    done = len(targets) < PARTS_PER_CHUNK
    if done:
        cuts.append(size)
    target = targets[-1] if targets else cursor["target"]
    parts = [(start, end) for start, end in pairwise(cuts) if start < end]
    return Ranges(parts, cursor | {"start": cuts[-1], "target": target}, done, target / size if size else None)
