"""One measurement: a database of its own, the fleet and the scheduler on it, and what was seen."""

import asyncio
import multiprocessing
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_bool
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import asyncpg

from bench.scale.load import POOL, Load
from bench.scale.processes import play_workers, run_scheduler
from bench.scale.sampler import Sampler
from bench.scale.summary import summarize
from deploy.local.postgres import EmbeddedPostgres
from deploy.local.roles import ensure_logins
from services.engine.logins import LOGINS
from services.engine.migrate import migrate
from services.engine.pools import register_pool
from services.engine.processors import register_processor
from services.engine.spec import JobSpec, ProcessorSpec
from services.engine.submission import submit_job
from services.platform.database import LONG_SECONDS, Database, connect_database

_FULL = 0.97  # of the slots at work: the fleet is up
_STALLED_SECONDS = 60.0  # without more slots at work: the database is its limit


def simulate(load: Load) -> dict[str, Any]:
    """Measure this load, and check at the end that the counters agree with the rows."""
    with _server(load) as (server, directory):
        return asyncio.run(_simulate(load, server, directory / "queue"))


@contextmanager
def _server(load: Load) -> Iterator[tuple[EmbeddedPostgres, Path]]:
    with tempfile.TemporaryDirectory(prefix="piecework-scale-", ignore_cleanup_errors=True) as directory:
        server = EmbeddedPostgres(Path(directory) / "data")
        server.prepare()
        with (server.data / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in load.server_settings().items())
        server.start()
        try:
            yield server, Path(directory)
        finally:
            server.stop()


async def _let_workers_in(server: EmbeddedPostgres, url: str) -> None:
    """Workers have the user of their service, with its rights."""
    connection = await asyncpg.connect(url)
    await ensure_logins(connection, server.passwords)
    await connection.close()


async def _simulate(load: Load, server: EmbeddedPostgres, queue: Path) -> dict[str, Any]:
    url = await server.create_database("piecework")
    await migrate(url)
    workers_url = server.url("piecework", LOGINS["worker"])
    await _let_workers_in(server, url)
    await _submit(load, url)
    context = multiprocessing.get_context("spawn")
    noting: Any = context.Value(c_bool, False, lock=False)
    results: Any = context.SimpleQueue()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(queue))
    listener.listen()
    scheduler = context.Process(target=run_scheduler, args=(load, url, listener))
    players = [
        context.Process(target=play_workers, args=(load, number, workers_url, queue, noting, results))
        for number in range(load.processes)
    ]
    processes = [scheduler, *players]
    pool = await connect_database(url, 2, seconds=LONG_SECONDS)
    try:
        for process in processes:
            process.start()
        sampler = Sampler(pool, server.pid, [process.pid or 0 for process in processes])
        sampling = asyncio.create_task(sampler.run())
        await _fill(sampler, load, pool, processes)
        sampler.measuring = noting.value = True
        await asyncio.sleep(60 * load.minutes)
        sampler.measuring = noting.value = False
        sampling.cancel()
        await asyncio.wait({sampling})
        await sampler.round()
        for player in players:
            player.terminate()
        played = [await asyncio.to_thread(results.get) for _ in players]
        return summarize(load, sampler, played) | {"rows": await _check(pool)}
    finally:
        for process in processes:
            process.kill()
            process.join()
        await pool.close()


async def _submit(load: Load, url: str) -> None:
    """The pool and the jobs, which share the tasks evenly."""
    pool = await connect_database(url, seconds=LONG_SECONDS)
    settings = load.settings(url)
    async with pool.acquire() as connection, connection.transaction():
        await register_pool(connection, POOL, queue_url="", dead_letter_url="", group_name=None, slots=load.slots)
        await register_processor(connection, "sleep", ProcessorSpec(command=["sleep", "30"]))
        for number in range(load.jobs):
            count = -(-load.task_count // load.jobs)
            source = {"type": "range", "count": count}
            spec = {"name": f"job-{number}", "input": source, "stages": [{"processor": "sleep"}]}
            await submit_job(connection, JobSpec.model_validate(spec), settings=settings)
    await pool.close()


async def _fill(sampler: Sampler, load: Load, pool: Database, processes: Sequence[BaseProcess]) -> None:
    """Wait until all workers are there, all tasks planned, all slots at work, or for a while no more of them."""
    most, began_at = 0, time.monotonic()
    rose_at = began_at + load.ramp_seconds
    while time.monotonic() - rose_at < _STALLED_SECONDS:
        await asyncio.sleep(1.0)
        if not all(process.is_alive() for process in processes):
            raise SystemExit("a load process has ended: see its traceback above")
        progress = await sampler.progress()
        known = sum(progress.values())
        print(f"\r{known:,} tasks planned, {progress['running']:,} running ", end="", flush=True)
        full = progress["running"] >= _FULL * load.workers * load.slots
        if not load.jobs:
            full = await pool.fetchval(_LIVE) >= load.workers
        if full and known >= load.task_count and time.monotonic() > began_at + load.ramp_seconds:
            return
        if progress["running"] > 1.02 * most or known < load.task_count or not load.jobs:
            most, rose_at = max(most, progress["running"]), max(rose_at, time.monotonic())


_LIVE = "SELECT count(*) FROM workers WHERE state = 'active'"

_CHECK = """
    SELECT (SELECT coalesce(sum(succeeded), 0)::bigint FROM stage_counters) AS counted,
        (SELECT count(*) FROM attempts WHERE outcome = 'succeeded') AS attempts,
        (SELECT count(*) FROM tasks WHERE state = 'succeeded') AS succeeded"""


async def _check(pool: Database) -> dict[str, int]:
    found = dict(await pool.fetchrow(_CHECK) or {})
    if len(set(found.values())) > 1:
        raise SystemExit(f"the counters don't agree with the rows: {found}")
    return found
