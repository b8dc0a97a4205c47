"""How often Python's collector of cycles looks through a service's memory.

Most objects live as long as the service, those that describe AWS above all; to look at 140,000 of them again and again
took a worker 40 percent of its time, and held up its loop for 0.2 s each time.
"""

import asyncio
import gc

_THRESHOLDS = 10_000, 20, 20  # the first in objects; Python's are 700, 10, 10
_SETTLED_SECONDS = 5.0  # by then, what lasts has been made


def collect_seldom() -> None:
    """Look at fewer objects, and more rarely; at those of the start no more, once the running loop has settled."""
    gc.set_threshold(*_THRESHOLDS)
    asyncio.get_running_loop().call_later(_SETTLED_SECONDS, leave_out_what_lasts)


def leave_out_what_lasts() -> None:
    """Never look at present objects again; those that are in no cycle end as ever."""
    gc.collect()
    gc.freeze()
