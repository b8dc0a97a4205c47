"""What a statement takes, from the wish to run it to its answer: waiting for a connection counts."""

import time
from array import array
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from services.platform.database import Database

Latencies = dict[str, "array[float]"]


class TimedPool:
    """A pool that notes the seconds of each statement under its kind, while `noting` says so."""

    def __init__(self, pool: Database, seconds: "array[float]", noting: Callable[[], bool]) -> None:
        self._pool = pool
        self._seconds = seconds
        self._noting = noting

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._pool, name)

        async def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            answer = await method(*arguments)
            if self._noting():
                self._seconds.append(time.perf_counter() - began)
            return answer

        return timed


def new_latencies() -> Latencies:
    return defaultdict(lambda: array("f"))
