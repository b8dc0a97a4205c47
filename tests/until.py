"""Waiting for what other processes, tasks and the database do."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

from services.platform.database import UNAVAILABLE

SECONDS_MAX = 60.0  # far longer than anything takes: the machine may be busy
_PAUSE_SECONDS_MAX = 0.1
_SHARE = 0.03  # of the time that it has taken so far


async def until(
    condition: Callable[[], Any | Awaitable[Any]], seconds_max: float = SECONDS_MAX, pause_seconds: float = 0.01
) -> Any:
    """Ask until the answer is true, and return it; a database that is away for a moment is not an answer.

    What takes long is asked for less and less often: what is waited for needs the processor, too. Raises TimeoutError.
    """
    began = time.monotonic()
    deadline = began + seconds_max
    while time.monotonic() < deadline:
        try:
            answer = condition()
            if inspect.isawaitable(answer):
                answer = await answer
        except UNAVAILABLE:
            answer = None
        if answer:
            return answer
        await asyncio.sleep(max(pause_seconds, min(_SHARE * (time.monotonic() - began), _PAUSE_SECONDS_MAX)))
    raise TimeoutError(f"{condition.__qualname__} was not true within {seconds_max} s")
