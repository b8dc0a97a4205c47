"""Waiting for what other processes, tasks and the database do."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

from services.platform.database import UNAVAILABLE

SECONDS_MAX = 60.0  # far longer than anything takes: the machine may be busy


async def until(
    condition: Callable[[], Any | Awaitable[Any]], seconds_max: float = SECONDS_MAX, pause_seconds: float = 0.01
) -> Any:
    """Ask until the answer is true, and return it; a database that is away for a moment is not an answer.

    Raises TimeoutError.
    """
    deadline = time.monotonic() + seconds_max
    while time.monotonic() < deadline:
        try:
            answer = condition()
            if inspect.isawaitable(answer):
                answer = await answer
        except UNAVAILABLE:
            answer = None
        if answer:
            return answer
        await asyncio.sleep(pause_seconds)
    raise TimeoutError(f"{condition.__qualname__} was not true within {seconds_max} s")
