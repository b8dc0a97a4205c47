"""arq on Redis: two worker processes, polling every 10 ms for up to 100 jobs, results kept for an hour."""

import asyncio
import os
import time
from typing import Any

from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.jobs import Job

PACKAGES = ("arq", "redis", "hiredis")
WORKERS = ["arq bench.peers.arq_redis.WorkerSettings"] * 2

_AT_ONCE = 100
_TIMEOUT_SECONDS = 120.0


async def nothing(context: dict[str, Any]) -> None:
    pass


async def started(context: dict[str, Any]) -> float:
    return time.time()


class WorkerSettings:
    """What the arq command reads."""

    functions = [nothing, started]
    redis_settings = RedisSettings.from_dsn(os.environ["REDIS_URL"])
    max_jobs = 100
    poll_delay = 0.01
    keep_result = 3600
    log_results = False


_runner = asyncio.Runner()
_pool: ArqRedis | None = None


def run(tasks: int) -> None:
    _runner.run(_run(tasks))


async def _run(tasks: int) -> None:
    pool = await _connect()
    submitted: list[Job | None] = []
    for first in range(0, tasks, _AT_ONCE):
        count = min(_AT_ONCE, tasks - first)
        submitted += await asyncio.gather(*(pool.enqueue_job("nothing") for _ in range(count)))
    for job in submitted:
        assert job is not None
        await job.result(timeout=_TIMEOUT_SECONDS, poll_delay=0.02)  # raises what the task raised


def start_one() -> float:
    return _runner.run(_start_one())


async def _start_one() -> float:
    job = await (await _connect()).enqueue_job("started")
    assert job is not None
    return float(await job.result(timeout=_TIMEOUT_SECONDS, poll_delay=0.005))


async def _connect() -> ArqRedis:
    global _pool
    _pool = _pool or await create_pool(WorkerSettings.redis_settings)
    return _pool
