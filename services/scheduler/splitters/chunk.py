"""What a splitter yields."""

from dataclasses import dataclass
from typing import Any

TASKS_MAX = 10_000_000  # of a job's input; also the most that an input of type range may ask for


class SplitError(Exception):
    """The input can't be split, now or later; the message names the object and the reason."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next task inputs, and where to go on; `repeat` > 1 stands for that many tasks with the one input."""

    inputs: list[dict[str, Any]]
    cursor: dict[str, Any]
    done: bool
    repeat: int = 1
