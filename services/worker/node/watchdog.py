"""Ends the worker's process if its event loop stands still: its supervisor then starts it again.

A loop that stands still sends no heartbeats, so the database gives its tasks to others anyway, but nothing else would
end the process.
"""

import asyncio
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_CODE = 70  # EX_SOFTWARE (sysexits.h)
_TICKS = 30


@contextmanager
def watching(limit_seconds: float) -> Iterator[None]:
    """Watch the running loop: once it has stood still for so long, print the stacks of all threads, and exit.

    What counts is not the clock but ticks of a thread that runs beside the loop: while the process is stopped or the
    machine sleeps, it does not tick either. It can't tick if the loop's thread holds the interpreter, as in a regular
    expression without end: then the limit is in seconds of CPU time (setitimer(2), ITIMER_PROF) of all processors, and
    the signal SIGPROF ends the process.
    """
    loop, beaten, ended = asyncio.get_running_loop(), threading.Event(), threading.Event()
    cpu_seconds = limit_seconds * (os.cpu_count() or 1)

    def beat() -> None:
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        beaten.set()

    def watch() -> None:
        missed = 0
        while not ended.wait(limit_seconds / _TICKS):
            if missed and not beaten.is_set():
                missed += 1
            elif not loop.is_closed():
                missed = 1
                beaten.clear()
                loop.call_soon_threadsafe(beat)
            if missed > _TICKS:
                print(f"the event loop has stood still for {limit_seconds:g} s: the worker ends", file=sys.stderr)
                faulthandler.dump_traceback(all_threads=True)
                os._exit(EXIT_CODE)

    faulthandler.register(signal.SIGPROF, all_threads=True, chain=True)
    beat()
    watcher = threading.Thread(target=watch, name="watchdog", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.unregister(signal.SIGPROF)
