"""A job of 1,000,000 tasks is deleted while small jobs run: how long these take, beside how long they take otherwise.

A user's order deletes at once and row by row; what expires goes with its month, and costs less. One-task jobs run one
after the other, before the deletion, until it has ended, and after it: what is compared is of the same run. All rows of
tasks and attempts are there, made by SQL; of the interim objects, as many as the emulator holds without being slow.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import httpx

from bench.grid import Grid, running_grid
from bench.seed import Amounts, seed
from bench.suites.latency import percentiles
from bench.suites.noop import job_seconds
from deploy.local.settings import BUCKET
from piecework import NotFound

_TASKS = 1_000_000
_OBJECTS = 2_000
_JOBS = 40  # before, and after


def run(size: int | None = None) -> dict[str, Any]:
    tasks = size or _TASKS
    objects = min(tasks, _OBJECTS)
    with running_grid() as grid:
        grid.client.register_processor("nothing", {"builtin": "noop"})
        job_id = asyncio.run(_fill(grid, tasks))
        _put_objects(grid, job_id, objects)
        _jobs(grid, 10)
        before = _jobs(grid, _JOBS)
        with grid.measured(sampled=()) as usage:
            grid.client.delete_job(job_id)
            began = time.monotonic()
            beside = _jobs(grid, until=lambda: _is_gone(grid, job_id))
            seconds = time.monotonic() - began
        after = _jobs(grid, _JOBS)
        left = asyncio.run(_left(grid, job_id))
    quiet, busy = percentiles(before + after), percentiles(beside)
    return {
        "grid": grid.shape,
        "tasks": tasks,
        "objects": objects,
        "seconds": round(seconds, 1),
        "rows_left": left,
        "jobs": {"quiet": len(before + after), "beside": len(beside)},
        "job_seconds": {"quiet": quiet, "beside": busy},
        "ratio": {name: round(busy[name] / quiet[name], 2) for name in quiet},
        "cpu_seconds": usage.cpu_seconds,
    }


async def _fill(grid: Grid, tasks: int) -> str:
    """A job that has ended, with all its rows."""
    connection = await asyncpg.connect(grid.settings.postgres.url("piecework"))
    await connection.execute("SET synchronous_commit = off")
    await seed(connection, Amounts(jobs=1, running=0, tasks=tasks, days=1))
    job_id = await connection.fetchval("SELECT job_id FROM jobs")
    await connection.close()
    return str(job_id)


async def _left(grid: Grid, job_id: str) -> int:
    connection = await asyncpg.connect(grid.settings.postgres.url("piecework"))
    left: int = await connection.fetchval("SELECT count(*) FROM tasks WHERE job_id = $1", job_id)
    await connection.close()
    return left


def _put_objects(grid: Grid, job_id: str, objects: int) -> None:
    with httpx.Client(base_url=f"{grid.settings.emulator.url}/{BUCKET}/", trust_env=False) as s3:
        for index in range(objects):
            s3.put(f"interim/{job_id}/0/{index}-1/out.csv", content=b"a\n").raise_for_status()


def _jobs(grid: Grid, count: int = 0, until: Callable[[], bool] | None = None) -> list[float]:
    """The seconds that each of these jobs takes."""
    seconds: list[float] = []
    while not until() if until else len(seconds) < count:
        seconds.append(job_seconds(grid.await_job(grid.submit("nothing", 1), poll_seconds=0.05)))
    return seconds


def _is_gone(grid: Grid, job_id: str) -> bool:
    try:
        grid.client.get_job(job_id)
    except NotFound:
        return True
    return False


def report(results: dict[str, Any]) -> Iterator[str]:
    quiet, beside = results["job_seconds"]["quiet"], results["job_seconds"]["beside"]
    yield (
        f"{results['tasks']:,} tasks and {results['objects']:,} objects deleted in {results['seconds']:.0f} s; "
        f"{results['rows_left']} rows are left"
    )
    for name, ratio in results["ratio"].items():
        yield (
            f"one-task jobs, {name}: {1000 * quiet[name]:.0f} ms before and after, {1000 * beside[name]:.0f} ms "
            f"beside it: ratio {ratio:.2f} ({results['jobs']['quiet']} and {results['jobs']['beside']} jobs)"
        )
