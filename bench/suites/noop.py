"""No-op tasks a second: from the submission to every task's state known, all of it durable in Postgres.

The smallest job is run several times, and the median taken: it is over in a second. The seconds are the database's:
from the job's `created_at` to its `finished_at`.
"""

import statistics
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from bench.grid import APART, Grid, running_grid

SIZES = (10_000, 100_000, 1_000_000)
_SMALL, _SMALL_RUNS = 10_000, 5


def run(size: int | None = None) -> dict[str, Any]:
    with running_grid() as grid:
        grid.client.register_processor("noop", {"builtin": "noop"})
        grid.run_job("noop", 1000)  # pays for connections and prepared statements
        return {"grid": grid.shape, "runs": list(measure_sizes(grid, "noop", [size] if size else SIZES))}


def measure_sizes(grid: Grid, processor: str, sizes: Iterable[int]) -> Iterator[dict[str, Any]]:
    """A run of each number of tasks."""
    for tasks in sizes:
        repeats = _SMALL_RUNS if tasks <= _SMALL else 1
        with grid.measured() as usage:
            seconds = [job_seconds(grid.run_job(processor, tasks)) for _ in range(repeats)]
        yield {
            "tasks": tasks,
            "seconds": round(statistics.median(seconds), 3),
            "tasks_per_second": round(tasks / statistics.median(seconds)),
            "cpu_seconds": usage.cpu_seconds,
            "memory_peak_bytes": usage.memory_peak_bytes,
            "requests": usage.requests,
            "per_1000_tasks": usage.per_1000(tasks * repeats, APART),
        }


def job_seconds(job: dict[str, Any]) -> float:
    return (parse_time(job["finished_at"]) - parse_time(job["created_at"])).total_seconds()


def parse_time(text: Any) -> datetime:
    return datetime.fromisoformat(str(text))


def report_run(run: dict[str, Any]) -> str:
    each = run["per_1000_tasks"]
    return (
        f"{run['tasks']:>10,} tasks in {run['seconds']:7.2f} s: {run['tasks_per_second']:,} tasks/s; "
        f"per 1,000 tasks {each['cpu_seconds']:.3f} CPU s of the services, "
        f"{each['cpu_seconds_with_brokers']:.3f} with Postgres and the emulator, "
        f"{each['requests']:.1f} AWS requests (${each['dollars'] * 1000:.4f} a million tasks)"
    )


def report(results: dict[str, Any]) -> Iterator[str]:
    yield from map(report_run, results["runs"])
    last = results["runs"][-1]
    rates = [row["tasks_per_second"] for row in results["runs"]]
    yield f"rate at the largest : at the smallest job = {rates[-1] / rates[0]:.2f}"
    yield "peak memory: " + ", ".join(f"{k} {v / 1e6:.0f} MB" for k, v in last["memory_peak_bytes"].items())
