"""uvicorn looks ten times a second whether it shall end: here a signal tells it at once, and it looks once a second."""

import asyncio
import signal
import threading
from contextlib import suppress
from types import FrameType

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

TICK_SECONDS = 1.0  # as exact as the header Date is


async def _main_loop(self: uvicorn.Server) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def handle_exit(number: int, frame: FrameType | None) -> None:
        self.handle_exit(number, frame)
        loop.call_soon_threadsafe(told.set)

    if threading.current_thread() is threading.main_thread():  # no other gets signals; uvicorn puts them back
        for number in HANDLED_SIGNALS:
            signal.signal(number, handle_exit)
    while not await self.on_tick(0):
        with suppress(TimeoutError):
            async with asyncio.timeout(TICK_SECONDS):
                await told.wait()


def let_servers_rest() -> None:
    """Give uvicorn's servers of this process the loop above: it costs nearly nothing while nobody asks."""
    uvicorn.Server.main_loop = _main_loop  # type: ignore[method-assign]
