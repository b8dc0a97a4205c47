"""Waiting for something that others need too: backoff with jitter, and one log line per change of state."""

import asyncio
import random

import structlog

from services.platform.health import VITALS

log = structlog.get_logger()

_SECONDS_MIN = 0.1
_SECONDS_MAX = 5.0


class Outage:
    """Whether a thing (the database, the queue) can't be reached, and for how many tries in a row."""

    def __init__(self, thing: str, period_seconds: float | None = None) -> None:
        """`period_seconds`: it is used at least this often, or the worker hangs."""
        self._thing = thing
        self._pulse = VITALS.pulse(thing, period_seconds)
        self._failures = 0

    async def failed(self, error: BaseException) -> None:
        """Note that a try failed, and wait before the next one."""
        if self._failures == 0:
            log.warning("failing, trying again", thing=self._thing, error=repr(error))
        self._failures += 1
        self._pulse.failed(error)
        await asyncio.sleep(min(_SECONDS_MAX, _SECONDS_MIN * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1))

    def passed(self) -> None:
        """Note that a try succeeded."""
        if self._failures:
            log.warning("works again", thing=self._thing, failures=self._failures)
        self._failures = 0
        self._pulse.succeeded()
