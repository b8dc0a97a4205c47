"""5,000 running jobs whose tasks wait: the CPU of the scheduler and the database, which only look for what to do.

No worker is left, so nothing moves. The jobs are made by SQL, each with five rows of counters, as of four workers.
"""

import asyncio
import signal
import time
from collections.abc import Iterator
from random import Random
from typing import Any
from uuid import UUID

import asyncpg

from bench.grid import running_grid
from bench.processes import stop_tree
from bench.seed import Amounts, seed
from services.platform.settings import Settings
from services.scheduler.loops.dispatch import Candidate, grant
from services.scheduler.turns import Turns

_JOBS = 5_000
_BUNDLES = 4_000  # granted at once
_SETTLE_SECONDS = 15.0
_SECONDS = 60.0
_LOOK_FOR = ("scheduler", "postgres")


def run(size: int | None = None) -> dict[str, Any]:
    jobs = size or _JOBS
    with running_grid(workers=1) as grid:
        stop_tree([grid.processes.pop("worker 0")], signal.SIGTERM)
        asyncio.run(_fill(grid.settings.postgres.url("piecework"), Amounts(jobs, jobs, tasks=20, days=1)))
        time.sleep(_SETTLE_SECONDS)
        with grid.measured(sampled=()) as usage:
            time.sleep(_SECONDS)
    cpu = {name: usage.cpu_seconds[name] for name in _LOOK_FOR}
    return {
        "jobs": jobs,
        "seconds": usage.seconds,
        "cpu_seconds": cpu,
        "cpu_percent_of_a_core": round(100 * sum(cpu.values()) / usage.seconds, 2),
        "grant_milliseconds": round(_grant_milliseconds(jobs), 1),
    }


async def _fill(url: str, amounts: Amounts) -> None:
    connection = await asyncpg.connect(url)
    await seed(connection, amounts)
    await connection.close()


def _grant_milliseconds(jobs: int) -> float:
    """CPU of handing out many bundles among the jobs, which holds the event loop."""
    random = Random(1)
    candidates = [
        Candidate(UUID(int=n), 0, 0, f"share-{n % 10}", ready=20, in_flight_seconds=random.random(), task_seconds=1.0)
        for n in range(jobs)
    ]
    before = time.process_time()
    grant(candidates, _BUNDLES, 1_000, Settings(), Turns())
    return 1000 * (time.process_time() - before)


def report(results: dict[str, Any]) -> Iterator[str]:
    cpu = ", ".join(f"{name} {seconds:.2f}" for name, seconds in results["cpu_seconds"].items())
    yield (
        f"{results['jobs']:,} running jobs: {results['cpu_percent_of_a_core']} % of a core over "
        f"{results['seconds']:.0f} s (CPU seconds: {cpu})"
    )
    yield f"{_BUNDLES:,} bundles granted among them: {results['grant_milliseconds']} ms of CPU"
