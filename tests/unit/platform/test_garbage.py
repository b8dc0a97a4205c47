"""The collector leaves out what a service has made at its start, and still finds cycles that come later."""

import subprocess
import sys

CODE = """
import asyncio, gc, weakref
from services.platform import garbage

class Cycle:
    def __init__(self):
        self.own = self

async def main():
    garbage._SETTLED_SECONDS = 0.0
    kept = [[] for _ in range(50_000)]
    garbage.collect_seldom()
    await asyncio.sleep(0.01)
    assert gc.get_freeze_count() > 50_000, gc.get_freeze_count()
    cycles = [weakref.ref(Cycle()) for _ in range(30_000)]
    assert cycles[0]() is None, "found without being asked for"

asyncio.run(main())
"""


def test_what_lasts_is_left_out_and_later_cycles_are_found() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True)  # the collector is the whole process's
