"""A chunk of task inputs, as splitters yield them."""

from dataclasses import dataclass
from typing import Any

from services.contract.task_input import Json

TASKS_MAX = 10_000_000  # tasks per job; also the limit of an input of type range


class SplitError(Exception):
    """The input can't be split, now or later; the message names the object and the reason."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next task inputs, as `tasks.input` will hold them, and the cursor to continue from.

    `repeat` > 1 stands for that many tasks with the same input.

    `share` is the part of the input that is split so far, 0 … 1, if it is known before the end.
    """

    inputs: list[Json]
    cursor: dict[str, Any]
    done: bool
    repeat: int = 1
    share: float | None = None

    @property
    def tasks(self) -> int:
        return len(self.inputs) * self.repeat
