"""A scheduler that kills itself: `python -m tests.faults.dying_scheduler LOOP STATEMENTS`.

It dies by SIGKILL right after the given number of SQL statements that LOOP's step has run in working steps: an odd
place for every loop, between its reads, its writes, its commit and its requests to AWS.
"""

import asyncio
import os
import signal
import sys
from contextvars import ContextVar
from typing import Any

import asyncpg

from services.common.logs import configure_logs
from services.common.settings import get_settings
from services.scheduler import __main__ as scheduler
from services.scheduler.loop import Grid, Loop

LOOP, STATEMENTS = sys.argv[1], int(sys.argv[2])
_watched: ContextVar[bool] = ContextVar("watched", default=False)
_seen = 0


def _deadly(method: Any) -> Any:
    async def run(self: Any, *arguments: Any, **options: Any) -> Any:
        global _seen
        result = await method(self, *arguments, **options)
        if _watched.get() and result:
            _seen += 1
            if _seen >= STATEMENTS:
                os.kill(os.getpid(), signal.SIGKILL)
        return result

    return run


for name in ("execute", "fetch", "fetchval", "fetchrow"):
    setattr(asyncpg.Connection, name, _deadly(getattr(asyncpg.Connection, name)))

_run = Loop.run


async def _watching_run(self: Loop, grid: Grid) -> None:
    _watched.set(self.name == LOOP)
    await _run(self, grid)


Loop.run = _watching_run  # type: ignore[method-assign]

if __name__ == "__main__":
    configure_logs("scheduler", "INFO")
    asyncio.run(scheduler.run(get_settings()))
