"""What a session needs of its node: tasks, and somebody who is told of their ends."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from services.engine.attempt import AttemptReport, ClaimedTask


class Held(NamedTuple):
    """A task that this worker has claimed, and its bundle, of which a session knows nothing."""

    bundle: Any
    task: ClaimedTask


class Source(Protocol):
    """Where the tasks of a session's stage come from, and who is told of their ends."""

    @property
    def slots(self) -> int: ...

    @property
    def waiting(self) -> int:
        """Tasks in the queue."""

    def take(self, count: int) -> list[Held]:
        """The next tasks, up to this number, as long as they are of the stage."""

    def give_back(self, held: Sequence[Held]) -> None:
        """Those that have not begun; they are next."""

    def run_alone(self, held: Held) -> None:
        """Likewise, but it must run by itself."""

    def report(self, ended: Sequence[tuple[Held, AttemptReport]]) -> None: ...

    def learn(self, seconds: float, tasks: int) -> None:
        """This number of tasks, one after another, took these seconds."""

    @property
    def task_seconds(self) -> float | None:
        """The mean; None if it is not known."""

    @property
    def has_idle_slot(self) -> bool: ...

    def closed(self) -> None:
        """The slot is free."""
