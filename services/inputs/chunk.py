"""What a splitter yields."""

from dataclasses import dataclass
from typing import Any

from services.contract.task_input import Json

TASKS_MAX = 10_000_000  # of a job's inputs; also the most that an input of type range may ask for


class SplitError(Exception):
    """The input can't be split, now or later; the message names the object and the reason."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next task inputs, as `tasks.input` will hold them, and where to go on.

    `repeat` > 1 stands for that many tasks with the one input.

    `share` says how much of the input is split by now, 0 … 1, if that is known before its end.
    """

    inputs: list[Json]
    cursor: dict[str, Any]
    done: bool
    repeat: int = 1
    share: float | None = None

    @property
    def tasks(self) -> int:
        return len(self.inputs) * self.repeat
