"""Quiet: nothing is going on in the grid. Then most loops rest, and one of them (loops/look.py) looks for all."""

import time
from collections.abc import Callable

QUIET_SECONDS = 30.0  # that a loop rests at most


class Quiet:
    """Whether nothing is going on. It ends, for all loops that rest, with a notification or when a look finds work.

    A scheduler that hears no notifications has no quiet: its loops look each for itself.
    """

    def __init__(self) -> None:
        self.is_heard = False  # what is notified reaches this scheduler
        self.wake: Callable[[], None] = lambda: None  # those that rest
        self._begins_at: float | None = None

    @property
    def is_on(self) -> bool:
        return self.is_heard and self._begins_at is not None and time.monotonic() >= self._begins_at

    def begin(self, after_seconds: float) -> None:
        """A look has found nothing: the grid is quiet if that is still so after these seconds."""
        if self._begins_at is None:
            self._begins_at = time.monotonic() + after_seconds

    def end(self) -> None:
        """Something is going on, or may be."""
        was_on, self._begins_at = self.is_on, None
        if was_on:
            self.wake()
