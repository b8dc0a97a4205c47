"""`python -m tests.storm`: run 100,000 tasks through a storm of faults, and prove that it has done no harm."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import uvloop

from tests.storm.plan import Plan
from tests.storm.report import render
from tests.storm.run import run_storm

LOGS = Path(__file__).parents[2] / ".piecework" / "storm"
_LINE_SECONDS = 10.0  # between two lines of progress where lines can't be overwritten


class ProgressLine:
    """One line that is written over on a terminal, and a line now and then elsewhere."""

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks
        self._shown_at = -_LINE_SECONDS

    def __call__(self, seconds: float, ended: int, faults: int) -> None:
        text = f"{seconds:5.0f} s  {ended:>9,} of {self._tasks:,} tasks  {faults:>5,} faults"
        if sys.stdout.isatty():
            print(f"\r{text}", end="", flush=True)
        elif seconds >= self._shown_at + _LINE_SECONDS:
            self._shown_at = seconds
            print(text, flush=True)


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same faults at the same times")
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="of storm at most (a deck of 41 faults at least); the rest in calm"
    )
    given = parser.parse_args()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # so that no process is left behind
    plan = Plan(given.seed, given.tasks, storm_seconds=60 * given.minutes)
    outcome = await run_storm(plan, LOGS, ProgressLine(plan.tasks))
    print(f"\n\n{render(outcome)}\n\nlogs: {LOGS}")
    return 0 if outcome.is_right else 1


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
