"""From a job's submission to the start of its first task, on an idle grid: one-task jobs, one after the other.

Two figures: until the database says that the task runs (`started_at` of the task minus `created_at` of the job), and
until the user's code itself runs, from just before the client's HTTP request; both are clocks of this machine.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from bench.grid import Grid, running_grid
from bench.suites.noop import parse_time

JOBS = 200


def run(size: int | None = None) -> dict[str, Any]:
    with running_grid() as grid:
        grid.client.register_processor("started", {"callable": "bench_tasks:started"})
        measure(grid, 5)
        return {"grid": grid.shape, "jobs": size or JOBS, **measure(grid, size or JOBS)}


def measure(grid: Grid, jobs: int) -> dict[str, Any]:
    pairs = [_one(grid) for _ in range(jobs)]
    return {
        "claimed_seconds": percentiles([claimed for claimed, _ in pairs]),
        "code_runs_seconds": percentiles([runs for _, runs in pairs]),
    }


def _one(grid: Grid) -> tuple[float, float]:
    submitted = time.time()
    job = grid.await_job(grid.submit("started", 1), poll_seconds=0.02)
    task = grid.client.get_task(job["job_id"], 0, 0)
    claimed = (parse_time(task["started_at"]) - parse_time(job["created_at"])).total_seconds()
    assert task["output"] is not None
    return claimed, task["output"]["value"]["started"] - submitted


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": round(cuts[49], 5), "p99": round(cuts[98], 5)}


def report(results: dict[str, Any]) -> Iterator[str]:
    for name, text in (("claimed_seconds", "the task is claimed"), ("code_runs_seconds", "the user's code runs")):
        p50, p99 = (results[name][key] * 1000 for key in ("p50", "p99"))
        yield f"from submission until {text}: p50 {p50:.0f} ms, p99 {p99:.0f} ms ({results['jobs']} jobs)"
