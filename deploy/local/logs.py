"""The stack's logs stay small while it runs: a large one moves to NAME.log.1, and goes on empty."""

import asyncio
import shutil
import time
from pathlib import Path

from deploy.local.progress import say

LOG_BYTES_MAX = 10 * 1024 * 1024
LOOK_SECONDS = 10.0
WORKER_LOG_SECONDS = 7 * 86_400.0  # of an instance that is gone; each new one has a log of its own


async def keep_small(logs: Path) -> None:
    """Look until cancelled."""
    while True:
        try:
            await asyncio.to_thread(shorten, logs)
        except OSError as error:  # a full disk, say: the stack goes on, and the next look may succeed
            say(f"logs not shortened: {error}")
        await asyncio.sleep(LOOK_SECONDS)


def shorten(logs: Path) -> None:
    """Move what large logs hold, and remove those of workers that are long gone.

    Whoever writes has the file open for appending, so it is emptied rather than renamed, and the next line is its
    first. Lines that are written between the copy and that are lost.
    """
    for log in logs.glob("*.log"):
        if log.stat().st_size > LOG_BYTES_MAX:
            draft = log.with_suffix(".log.new")
            shutil.copyfile(log, draft)
            with log.open("r+b") as file:
                file.truncate(0)
            draft.replace(log.with_suffix(".log.1"))
    for log in logs.glob("worker-*.log*"):
        if log.stat().st_mtime < time.time() - WORKER_LOG_SECONDS:
            log.unlink()
