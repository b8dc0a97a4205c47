"""An hour of small jobs, one after the other, half of them of two stages with a merge: does anything grow or get lost?

Once a minute it looks at each service's memory, open files and children, at what is left in the scratch directory, and
at the database's size. What grows shows as a difference between the second quarter of the time and the last.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

import asyncpg
import psutil

from bench.grid import Grid, running_grid
from bench.usage import memory_bytes

_MINUTES = 60
_JOBS_A_SECOND = 1.0
_LOOK_SECONDS = 60.0
_SETTLE_SECONDS = 120.0  # at most, for the last jobs to end
_TASKS = 8

_STATES = "SELECT state, count(*) AS jobs FROM jobs GROUP BY state"
_SECONDS = """
    SELECT percentile_cont(ARRAY[0.5, 0.95, 1.0]) WITHIN GROUP (
        ORDER BY extract(epoch FROM finished_at - created_at)) FROM jobs WHERE state = 'succeeded'"""
_TASK_STATES = "SELECT state, count(*) AS tasks FROM tasks GROUP BY state"
_ATTEMPTS = "SELECT outcome, count(*) AS attempts FROM attempts GROUP BY outcome"
_OPEN = "SELECT count(*) FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled')"

_ONE_STAGE: dict[str, Any] = {
    "name": "one-stage",
    "input": {"type": "range", "count": _TASKS},
    "stages": [{"processor": "nothing"}],
}
_TWO_STAGES: dict[str, Any] = {
    "name": "two-stages",
    "input": {"type": "items", "items": [{"number": number} for number in range(_TASKS)]},
    "stages": [{"processor": "copy"}, {"processor": "copy"}],
    "merge": {"type": "concat", "filename": "all.txt"},
}


def run(size: int | None = None) -> dict[str, Any]:
    """`size`: minutes."""
    seconds = 60.0 * (size or _MINUTES)
    with running_grid() as grid:
        grid.client.register_processor("nothing", {"callable": "bench_tasks:nothing"})
        grid.client.register_processor("copy", {"command": ["cp", "{input}", "{output}"]})
        looks = _submit_and_look(grid, seconds)
        found = asyncio.run(_read(grid))
        return {"grid": grid.shape, "minutes": seconds / 60, "looks": looks, **found}


def _submit_and_look(grid: Grid, seconds: float) -> list[dict[str, Any]]:
    """Jobs at a steady rate, whatever they do; a look now and then."""
    looks: list[dict[str, Any]] = []
    began = time.monotonic()
    submitted = 0
    while (passed := time.monotonic() - began) < seconds:
        grid.client.submit_job(_TWO_STAGES if submitted % 2 else _ONE_STAGE)
        submitted += 1
        if passed >= len(looks) * _LOOK_SECONDS:
            looks.append({"seconds": round(passed), "jobs": submitted, **_look(grid)})
        time.sleep(max(0.0, began + submitted / _JOBS_A_SECOND - time.monotonic()))
    return looks


def _look(grid: Grid) -> dict[str, Any]:
    services = {name: grid.processes[name] for name in grid.services}
    trees = {name: [process, *process.children(recursive=True)] for name, process in services.items()}
    return {
        "memory_bytes": memory_bytes(services),
        "open_files": {name: process.num_fds() for name, process in services.items()},
        "processes": {name: len(tree) for name, tree in trees.items()},
        "zombies": sum(_is_zombie(process) for tree in trees.values() for process in tree),
        # What a task removes meanwhile is passed over.
        "scratch_entries": sum(
            len(folders) + len(files) for _, folders, files in os.walk(grid.settings.state / "scratch")
        ),
    }


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def _read(grid: Grid) -> dict[str, Any]:
    """What has become of the jobs, once all have ended or have had their time."""
    connection = await asyncpg.connect(grid.settings.postgres.url("piecework"))
    try:
        until, still_open = time.monotonic() + _SETTLE_SECONDS, True
        while still_open and time.monotonic() < until:
            await asyncio.sleep(1)
            still_open = await connection.fetchval(_OPEN)
        p50, p95, most = await connection.fetchval(_SECONDS)
        return {
            "jobs": {row["state"]: row["jobs"] for row in await connection.fetch(_STATES)},
            "tasks": {row["state"]: row["tasks"] for row in await connection.fetch(_TASK_STATES)},
            "attempts": {row["outcome"]: row["attempts"] for row in await connection.fetch(_ATTEMPTS)},
            "job_seconds": {"p50": round(p50, 2), "p95": round(p95, 2), "max": round(most, 2)},
            "database_bytes": await connection.fetchval("SELECT pg_database_size(current_database())"),
        }
    finally:
        await connection.close()


def _growth(looks: list[dict[str, Any]], what: str, name: str) -> tuple[float, float]:
    """The median of the second quarter of the time, and of the last."""
    values = [look[what][name] for look in looks]
    quarter = max(1, len(values) // 4)
    return statistics.median(values[quarter : 2 * quarter] or values), statistics.median(values[-quarter:])


def report(results: dict[str, Any]) -> Iterator[str]:
    looks, seconds = results["looks"], results["job_seconds"]
    yield (
        f"soak: {results['minutes']:g} minutes, jobs {results['jobs']}, tasks {results['tasks']}, "
        f"attempts {results['attempts']}"
    )
    yield f"  seconds from submission to end: p50 {seconds['p50']}, p95 {seconds['p95']}, max {seconds['max']}"
    for name in looks[-1]["memory_bytes"]:
        (memory, later), (files, files_later) = (_growth(looks, what, name) for what in ("memory_bytes", "open_files"))
        yield (
            f"  {name}: {memory / 1e6:.0f} → {later / 1e6:.0f} MB, {files:.0f} → {files_later:.0f} open files, "
            f"{looks[-1]['processes'][name]} processes"
        )
    yield (
        f"  zombies {max(look['zombies'] for look in looks)}, scratch entries {looks[0]['scratch_entries']} → "
        f"{looks[-1]['scratch_entries']}, database {results['database_bytes'] / 1e6:.0f} MB"
    )
