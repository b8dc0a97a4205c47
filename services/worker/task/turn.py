"""An attempt's turn in a slot. Fetching the input and uploading the output need no slot: others run meanwhile."""

import asyncio
import time
from collections.abc import Callable
from typing import Literal

from services.worker.task.warm_children import WarmChildren

_FOLLOWED_SECONDS = 30.0  # without another heartbeat that says so


class Turn:
    """A context that waits for one of the `free` slots, and yields that slot's children.

    `phase` is its state; `working_seconds` is the attempt's age without the wait. `started` is called when the wait is
    over, `given_back` when the slot is free again.
    """

    def __init__(
        self, free: asyncio.LifoQueue[WarmChildren], started: Callable[[], None], given_back: Callable[[], None]
    ) -> None:
        self.phase: Literal["before", "waiting", "running", "after"] = "before"
        self._free = free
        self._started = started
        self._given_back = given_back
        self._began_at = time.monotonic()
        self._waiting_since: float | None = None
        self._waited_seconds = 0.0
        self._asked_at: float | None = None  # for the slot
        self._followed_at: float | None = None
        self._left_at: float | None = None

    @property
    def working_seconds(self) -> float:
        until = time.monotonic() if self._waiting_since is None else self._waiting_since
        return until - self._began_at - self._waited_seconds

    @property
    def fetch_seconds(self) -> float:
        """How long the attempt took, or takes, until it was ready for a slot."""
        return (time.monotonic() if self._asked_at is None else self._asked_at) - self._began_at

    @property
    def put_seconds(self) -> float:
        """How long ago it left its slot."""
        return 0.0 if self._left_at is None else time.monotonic() - self._left_at

    def follow(self) -> None:
        """Somebody reads the attempt's log while it runs; every heartbeat says so again."""
        self._followed_at = time.monotonic()

    @property
    def is_followed(self) -> bool:
        return self._followed_at is not None and time.monotonic() - self._followed_at < _FOLLOWED_SECONDS

    async def __aenter__(self) -> WarmChildren:
        self.phase, self._waiting_since = "waiting", time.monotonic()
        self._asked_at = self._waiting_since
        self._children = await self._free.get()
        self._waited_seconds, self._waiting_since = time.monotonic() - self._waiting_since, None
        self.phase = "running"
        self._started()
        return self._children

    async def __aexit__(self, *_: object) -> None:
        self.phase, self._left_at = "after", time.monotonic()
        self._free.put_nowait(self._children)
        self._given_back()
