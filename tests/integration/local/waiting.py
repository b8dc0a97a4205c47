"""Waiting for what another process does."""

import asyncio
import time
from collections.abc import Callable

WAIT_SECONDS = 30.0


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as the condition is true; fail after WAIT_SECONDS."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        await asyncio.sleep(0.02)
