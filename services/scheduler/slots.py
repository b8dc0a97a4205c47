"""Slots: pieces of work that go on beside their loop. Each slot is free as soon as its own piece ends, so that nothing
waits for the slowest."""

import asyncio
import time
from collections.abc import Coroutine, Hashable, Mapping
from typing import Any, Generic, TypeVar

import structlog

log = structlog.get_logger()

Key = TypeVar("Key", bound=Hashable)

# A piece that lasts gives up its place among those that are counted, to a bound: then quick ones go on beside it.
LONG_SECONDS = 5.0
# A step ends after this long, whatever still goes on: most pieces are quick, and then all is done when it returns.
PATIENCE_SECONDS = 0.5


class Slots(Generic[Key]):
    """The pieces that are under way, each under a key. `ended` is set when one ends."""

    def __init__(self) -> None:
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._started: dict[Key, float] = {}
        self._resting: dict[Key, float] = {}
        self.ended = asyncio.Event()

    def __len__(self) -> int:
        return len(self._running)

    @property
    def keys(self) -> list[Key]:
        """Of what is under way, and of what rests."""
        now = time.monotonic()
        self._resting = {key: until for key, until in self._resting.items() if until > now}
        return [*self._running, *self._resting]

    def rest(self, key: Key, seconds: float) -> None:
        """Take up this work again no earlier than then."""
        self._resting[key] = time.monotonic() + seconds

    def free(self, at_once: int) -> int:
        """The number of pieces that may begin: `at_once` quick ones go on at once, and eight times that in all."""
        now = time.monotonic()
        quick = sum(now - started < LONG_SECONDS for started in self._started.values())
        return max(min(at_once - quick, 8 * at_once - len(self._running)), 0)

    def start(self, key: Key, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a piece of work, unless one is under way under this key. Returns the one that is under way then."""
        if (running := self._running.get(key)) is not None and not running.done():
            work.close()
            return running
        task = asyncio.create_task(work)
        self._running[key] = task
        self._started[key] = time.monotonic()
        task.add_done_callback(lambda ended: self._end(key, ended))
        return task

    def _end(self, key: Key, task: asyncio.Task[None]) -> None:
        if self._running.get(key) is task:  # else the next one under this key has begun meanwhile
            del self._running[key], self._started[key]
        self.ended.set()
        if not task.cancelled() and (error := task.exception()):
            log.warning("work broke off", work=str(key), error=repr(error))

    def cancel(self, key: Key) -> None:
        """End a piece of work, as soon as it can."""
        self._running[key].cancel()

    async def advance(self, works: Mapping[Key, Coroutine[Any, Any, None]]) -> None:
        """Begin these, and give them a moment. Raises what all that ended in it have raised, if none of them went well.

        So a loop backs off when the database is away.
        """
        if not works:
            return
        tasks = [self.start(key, work) for key, work in works.items()]
        done, _ = await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)
        errors = [error for task in done if not task.cancelled() and (error := task.exception())]
        if errors and len(errors) == len(done):
            raise errors[0]

    async def settle(self) -> None:
        """Wait for all that is under way."""
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def stop(self) -> None:
        """Break off all that is under way."""
        for task in self._running.values():
            task.cancel()
        await self.settle()
