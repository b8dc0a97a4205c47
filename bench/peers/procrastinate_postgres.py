"""procrastinate on Postgres: two worker processes of ten concurrent jobs, jobs deferred by thousands, none deleted.

It keeps no results: when a task started is read from its event, which it records as it takes the job.
"""

import asyncio
import os
import time

from procrastinate import App, PsycopgConnector

PACKAGES = ("procrastinate", "psycopg")
WORKERS = ["procrastinate --log-level warning --app bench.peers.procrastinate_postgres.app worker --concurrency 10"] * 2

_BATCH = 1000
_TIMEOUT_SECONDS = 120.0
_LEFT = "SELECT count(*) AS jobs FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
_SUCCEEDED = "SELECT count(*) AS jobs FROM procrastinate_jobs WHERE status = 'succeeded'"
_STARTED = (
    "SELECT extract(epoch FROM max(at))::float AS at FROM procrastinate_events "
    "WHERE job_id = %(job_id)s AND type = 'started'"
)

app = App(connector=PsycopgConnector(conninfo=os.environ["DATABASE_URL"]))


@app.task
async def nothing(number: int) -> None:
    pass


_runner = asyncio.Runner()


def prepare() -> None:
    _runner.run(_prepare())


async def _prepare() -> None:
    await app.open_async()
    await app.schema_manager.apply_schema_async()


def run(tasks: int) -> None:
    _runner.run(_run(tasks))


async def _run(tasks: int) -> None:
    before = await _count(_SUCCEEDED)
    for first in range(0, tasks, _BATCH):
        await nothing.batch_defer_async(*({"number": n} for n in range(first, min(first + _BATCH, tasks))))
    await _until_done(0.05)
    if (succeeded := await _count(_SUCCEEDED) - before) != tasks:
        raise RuntimeError(f"{succeeded} of {tasks} jobs succeeded")


def start_one() -> float:
    return _runner.run(_start_one())


async def _start_one() -> float:
    job_id = await nothing.defer_async(number=0)
    await _until_done(0.005)
    return float((await app.connector.execute_query_one_async(_STARTED, job_id=job_id))["at"])


async def _until_done(poll_seconds: float) -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while left := await _count(_LEFT):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{left} jobs are left after {_TIMEOUT_SECONDS:.0f} s")
        await asyncio.sleep(poll_seconds)


async def _count(query: str) -> int:
    return int((await app.connector.execute_query_one_async(query))["jobs"])
