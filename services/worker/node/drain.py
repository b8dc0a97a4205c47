"""Why a node takes no more work, and how long what runs on it may go on."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Drain:
    """A drain that may begin, and then become more urgent. `changed` is set whenever it has something new to tell."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.changed = asyncio.Event()
        self.reason: str | None = None  # as the node knows it; None: whoever ordered the drain has told it
        self.interrupted = False  # EC2 ends the instance, whatever this node does
        self.ends_at = math.inf  # by the loop's clock
        self._limit: asyncio.Timeout | None = None

    def begin(self, reason: str | None, seconds: float = math.inf, *, interrupted: bool = False) -> None:
        """Give what runs so long to end, or less if that was said before."""
        if interrupted or not self.begun.is_set():
            self.reason = reason
        self.interrupted |= interrupted
        self.ends_at = min(self.ends_at, asyncio.get_running_loop().time() + max(seconds, 0.0))
        if self._limit is not None:
            self._limit.reschedule(self._when)
        self.begun.set()
        self.changed.set()

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """Raises TimeoutError when the time of what runs is over, even if it has become shorter meanwhile."""
        async with asyncio.timeout_at(self._when) as self._limit:
            try:
                yield
            finally:
                self._limit = None

    @property
    def _when(self) -> float | None:
        return None if math.isinf(self.ends_at) else self.ends_at
