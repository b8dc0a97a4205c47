"""Waiting for something that others need too: backoff with jitter, and one log line per change of state."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

from services.platform.health import VITALS

log = structlog.get_logger()

_SECONDS_MIN = 0.1
_SECONDS_MAX = 5.0

T = TypeVar("T")


class Outage:
    """Whether a thing (the database, the queue) can't be reached, and for how many tries in a row.

    `over` is set as long as the last try has succeeded, or none was made. Pauses grow to `seconds_max`.
    `period_seconds`: it is tried at least this often, or the worker hangs.
    """

    def __init__(self, thing: str, seconds_max: float = _SECONDS_MAX, period_seconds: float | None = None) -> None:
        self.over = asyncio.Event()
        self.over.set()
        self._thing = thing
        self._seconds_max = seconds_max
        self._pulse = VITALS.pulse(thing, period_seconds)
        self._failures = 0
        self._passed_at = asyncio.get_running_loop().time()

    @property
    def seconds(self) -> float:
        """The time since the last try that succeeded; 0 if there is no outage."""
        return asyncio.get_running_loop().time() - self._passed_at if self._failures else 0.0

    async def failed(self, error: BaseException) -> None:
        """Note that a try failed, and wait before the next one."""
        if self._failures == 0:
            log.warning("failing, trying again", thing=self._thing, error=repr(error))
        self._failures += 1
        self.over.clear()
        self._pulse.failed(error)
        pause = min(self._seconds_max, _SECONDS_MIN * 2 ** min(self._failures, 10))
        await asyncio.sleep(pause * random.uniform(0.5, 1))

    def passed(self) -> None:
        """Note that a try succeeded."""
        if self._failures:
            log.warning("works again", thing=self._thing, failures=self._failures, seconds=round(self.seconds, 1))
        self._failures = 0
        self._pulse.succeeded()
        self._passed_at = asyncio.get_running_loop().time()
        self.over.set()


async def in_time(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """The work's result. Raises TimeoutError after so long.

    Unlike asyncio.timeout, it does not wait for the end of what it cancels: a silent connection may take its time.
    """
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait({working}, timeout=seconds)
        if working.done():
            return working.result()
        raise TimeoutError(f"no answer within {seconds:g} s")
    finally:
        if not working.done():
            working.cancel()
            working.add_done_callback(_drop)


def _drop(task: asyncio.Future[Any]) -> None:
    """Nobody waits for its result any more."""
    if not task.cancelled():
        task.exception()
