"""One shape for every loop of the scheduler: a repeated step. Pauses are short under load, and NOTIFY ends them."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import structlog
from botocore.exceptions import ClientError, ParamValidationError
from pydantic import ValidationError

from services.platform import notifications
from services.platform.aws import Aws
from services.platform.concurrency import is_cancelled
from services.platform.database import UNAVAILABLE, Database, storable
from services.platform.health import VITALS
from services.platform.s3_faults import S3_ERRORS, fault_of
from services.platform.settings import Settings
from services.scheduler.paces import Paces
from services.scheduler.quiet import QUIET_SECONDS, Quiet
from services.scheduler.slots import Slots
from services.scheduler.turns import Turns

log = structlog.get_logger()

BACKOFF_SECONDS_FIRST = 0.1
BACKOFF_SECONDS_MAX = 5.0
ERROR_LENGTH_MAX = 1000  # of what is kept
# A loop that is woken rests for as long as its last step took, up to this: however often it is woken, it looks for half
# of the time at most.
REST_SECONDS_MAX = 0.01
# Faults that pass by themselves: the database restarts, AWS throttles or can't be reached.
PASSING = (*UNAVAILABLE, *S3_ERRORS)

_DATABASE: tuple[type[BaseException], ...] = (*UNAVAILABLE, asyncpg.PostgresError)


def passes(error: Exception) -> bool:
    """Whether another try may succeed after this error; an unforeseen one is assumed not to pass."""
    if isinstance(error, ClientError):
        return fault_of(error) == "passing"
    if isinstance(error, ParamValidationError | asyncpg.DataError):
        return False
    # A newer scheduler can read stored values that this one can't (ValidationError).
    return isinstance(error, (*PASSING, *_DATABASE, ValidationError))


@dataclass(frozen=True, slots=True)
class Context:
    """What every step works with."""

    database: Database
    aws: Aws
    settings: Settings
    turns: defaultdict[str, Turns] = field(default_factory=lambda: defaultdict(Turns))  # of dispatch, by pool
    queues_taking: dict[str, float] = field(default_factory=dict)  # when it was last noted, by URL
    slots: defaultdict[str, Slots[Any]] = field(default_factory=lambda: defaultdict(Slots))  # by loop
    paces: Paces = field(default_factory=Paces)
    quiet: Quiet = field(default_factory=Quiet)


# Whether work is going on; or, as a number, the seconds until the next look at least, since a look costs much.
Step = Callable[[Context], Awaitable[bool | float]]


@dataclass(slots=True)
class Loop:
    """A named step. While work is going on it runs again after `busy_seconds`, or when it has rested enough.

    A loop that `rests` makes no looks of its own while the grid is quiet, or few.
    """

    name: str
    step: Step
    busy_seconds: float
    idle_seconds: float
    channels: frozenset[str] = frozenset()
    rests: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    stepped_at: float | None = None  # by the clock of `time.monotonic`: its last step that went well
    error: str | None = None  # of its last step

    async def run(self, context: Context) -> None:
        """Repeat the step until cancelled. Errors are logged, and the step is retried with growing pauses."""
        failures = 0
        pulse = VITALS.pulse(self.name, max(self.idle_seconds, QUIET_SECONDS if self.rests else 0.0))
        while not is_cancelled():
            self.wake.clear()
            try:
                began_at = time.monotonic()
                with pulse.step():
                    going_on = await self.step(context)
                rest = 0.0 if isinstance(going_on, bool) else going_on
                pause = self.busy_seconds if going_on else self._idle_pause(context)
                pulse.succeeded()
                self.stepped_at, self.error = time.monotonic(), None
                if failures:
                    log.info("loop recovered", loop=self.name, failures=failures)
                failures = 0
            except Exception as error:
                failures += 1
                pulse.failed(error, passes=passes(error))
                self.error = storable(repr(error))[:ERROR_LENGTH_MAX]
                pause = min(BACKOFF_SECONDS_FIRST * 2 ** min(failures, 10), BACKOFF_SECONDS_MAX)
                if failures == 1 or not isinstance(error, PASSING):
                    log.warning(
                        "loop failed", loop=self.name, error=repr(error), exc_info=not isinstance(error, PASSING)
                    )
            if failures:
                await asyncio.sleep(pause)
            elif rest > pause:
                await asyncio.sleep(rest)
            else:
                await self._sleep(pause, min(time.monotonic() - began_at, REST_SECONDS_MAX))

    def _idle_pause(self, context: Context) -> float:
        return max(self.idle_seconds, QUIET_SECONDS) if self.rests and context.quiet.is_on else self.idle_seconds

    async def _sleep(self, seconds: float, rest: float) -> None:
        """Until that time has passed, or until something wakes it, but not before it has rested."""
        awake_at = time.monotonic() + rest
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wake.wait()
                await asyncio.sleep(awake_at - time.monotonic())


def wake_resting(loops: list[Loop]) -> None:
    """The quiet has ended."""
    for loop in loops:
        if loop.rests:
            loop.wake.set()


async def listen(settings: Settings, loops: list[Loop], quiet: Quiet) -> None:
    """Wake loops when one of their channels is notified. While the database is down, they only poll.

    Whoever does not hear has no quiet, and a lost connection may have lost notifications: all look when there is a new
    one.
    """

    def notified(channel: str, _: str) -> None:
        for loop in loops:
            if channel in loop.channels:
                loop.wake.set()
        quiet.end()

    def heard(is_heard: bool) -> None:
        for loop in loops if is_heard else []:
            loop.wake.set()
        quiet.end()
        quiet.is_heard = is_heard

    channels = frozenset[str]().union(*(loop.channels for loop in loops))
    await notifications.listen(settings, settings.database_seconds, channels, notified, heard)
