"""Tasks that sleep 100 ms, 8 slots a worker: how much of the slots' time is work.

The ideal is tasks x 0.1 s / slots. All of it counts, from the submission to the last state known.
"""

from collections.abc import Iterator
from typing import Any

from bench.grid import APART, running_grid
from bench.suites.noop import job_seconds

_TASKS = 5_000
_SLEEP_SECONDS = 0.1


def run(size: int | None = None) -> dict[str, Any]:
    tasks = size or _TASKS
    with running_grid(workers=2, slots=8) as grid:
        grid.client.register_processor("sleep", {"callable": "bench_tasks:sleep"})
        grid.run_job("sleep", 64, params={"seconds": 0.0})  # starts the children
        with grid.measured() as usage:
            seconds = job_seconds(grid.run_job("sleep", tasks, params={"seconds": _SLEEP_SECONDS}))
        ideal = tasks * _SLEEP_SECONDS / (grid.workers * grid.slots)
        return {
            "grid": grid.shape,
            "tasks": tasks,
            "seconds": round(seconds, 3),
            "ideal_seconds": ideal,
            "of_ideal": round(ideal / seconds, 4),
            "cpu_seconds": usage.cpu_seconds,
            "per_1000_tasks": usage.per_1000(tasks, APART),
        }


def report(results: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{results['tasks']:,} tasks of 100 ms on {results['grid']['workers']} workers x {results['grid']['slots']} "
        f"slots: {results['seconds']:.2f} s, {100 * results['of_ideal']:.1f} % of the ideal throughput"
    )
