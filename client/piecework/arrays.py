"""Array jobs as Slurm writes them, `1-100:4`, as the input of a job."""

import re
from typing import Any

_PIECE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")

EXAMPLES = "1-100, 1-100:4 (every fourth), 3,7,9, or 1-100%5 (5 at a time)"


def parse_array(text: str) -> tuple[dict[str, Any], int | None]:
    """The input, and how many tasks may run at a time if the text says so. Raises ValueError.

    https://slurm.schedmd.com/sbatch.html#OPT_array: bounds are inclusive, and a list is sorted.
    """
    numbers, percent, limit = text.strip().partition("%")
    pieces = [_piece(piece, text) for piece in numbers.split(",")]
    running_max = _positive(limit, text) if percent else None
    match pieces:
        case [range(start=start, stop=stop, step=step)] if len(pieces[0]) > 1:
            bounds = {"start": start, "stop": stop}
            return {"type": "range", **bounds, **({"step": step} if step > 1 else {})}, running_max
    return {"type": "range", "values": sorted(set().union(*pieces))}, running_max


def _piece(piece: str, text: str) -> range:
    found = _PIECE.fullmatch(piece.strip())
    if found is None:
        raise ValueError(f"{text!r} is not an array; write {EXAMPLES}")
    first, last, step = int(found[1]), int(found[2] or found[1]), _positive(found[3] or "1", text)
    if last < first:
        raise ValueError(f"{text!r}: {piece} ends before it begins; write the smaller number first")
    return range(first, last + 1, step)


def _positive(number: str, text: str) -> int:
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"{text!r}: {number!r} is not a whole number from 1; write {EXAMPLES}")
    return int(number)
