"""How large a part should be: as the user says; by default, such that each slot of the pool gets the same few parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Protocol

from services.inputs.chunk import TASKS_MAX, SplitError

PARTS_A_SLOT_MIN = 4
PART_BYTES_MIN = 1_048_576
PART_BYTES_MAX = 134_217_728


class Sized(Protocol):
    uri: str
    part_bytes: int | None
    parts: int | None


def choose_part_bytes(source: Sized, total_bytes: int, slots: int) -> int:
    """The target size of a part of `total_bytes`. Raises SplitError if there would be too many."""
    if source.part_bytes is not None:
        if total_bytes // source.part_bytes >= TASKS_MAX:
            raise SplitError(
                f"{source.uri} has {total_bytes} bytes: parts of {source.part_bytes} bytes would be more than "
                f"{TASKS_MAX}; set a larger part_bytes"
            )
        return source.part_bytes
    if source.parts is not None:
        return max(1, -(-total_bytes // source.parts))
    slots = max(slots, 1)
    parts_a_slot = max(PARTS_A_SLOT_MIN, -(-total_bytes // (PART_BYTES_MAX * slots)))
    return max(-(-total_bytes // (parts_a_slot * slots)), PART_BYTES_MIN)


@dataclass(frozen=True, slots=True)
class BlockGroup:
    """Neighbouring blocks of an object that form a part."""

    first: int
    count: int
    bytes: int


def group_blocks(sizes: Sequence[int], part_bytes: int) -> list[BlockGroup]:
    """Blocks of these sizes in groups of about `part_bytes`: a block belongs to the group in which it starts."""
    starts = accumulate(sizes, initial=0)
    groups = groupby(zip(range(len(sizes)), starts, strict=False), lambda block: block[1] // part_bytes)
    numbers = [[number for number, _ in blocks] for _, blocks in groups]
    return [BlockGroup(group[0], len(group), sum(sizes[group[0] : group[-1] + 1])) for group in numbers]
