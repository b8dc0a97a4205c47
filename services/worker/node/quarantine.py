"""Counts the attempts that this node could not run, and takes it out of service after too many in a row."""

import time
from collections.abc import Callable

import structlog

from services.engine.attempt import AttemptReport

log = structlog.get_logger()


class Quarantine:
    """Calls `begin`, with the reason, after `faults_max` attempts in a row that the node could not run.

    Attempts that ran side by side count once: they tell of one moment.
    """

    def __init__(self, faults_max: int, begin: Callable[[str], None]) -> None:
        self._faults_max = faults_max
        self._begin = begin
        self._in_a_row = 0
        self._last_at = float("-inf")

    def note(self, finished: AttemptReport, began: float) -> None:
        """Note how an attempt has ended, which began at that moment (monotonic)."""
        if finished.losses_max is None:
            if finished.outcome != "released":  # its processor has run, or its input was at fault
                self._in_a_row = 0
            return
        if began < self._last_at:
            return
        self._in_a_row, self._last_at = self._in_a_row + 1, time.monotonic()
        reason = str((finished.error or {}).get("message"))
        log.warning("node unfit", attempts_in_a_row=self._in_a_row, reason=reason)
        if self._in_a_row == self._faults_max:
            self._begin(f"{self._faults_max} attempts in a row could not run; the last: {reason}")
