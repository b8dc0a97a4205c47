"""The processes around the database: some that play the workers, one that is the scheduler and the roll-up."""

import asyncio
import logging
import multiprocessing
import signal
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
import uvloop

from bench.scale.load import Load
from bench.scale.node import Pools, run_node
from bench.scale.queue import Receiver, Sender
from bench.scale.stopwatch import TimedPool, new_latencies
from services.platform.aws import Aws
from services.platform.database import connect_database
from services.scheduler.__main__ import make_loops
from services.scheduler.loop import Context, listen
from services.scheduler.loops.alerts import Teller
from services.scheduler.loops.triggers import Listeners
from services.scheduler.loops.webhooks import Deliverer
from services.scheduler.merges.merge import Merger
from services.scheduler.quiet import Quiet
from services.stats.rollup import keep_rolled_up


def run_until_terminated(work: Coroutine[Any, Any, None]) -> None:
    """Run it until SIGTERM or the parent's end; its log is errors only."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    async def main() -> None:
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        asyncio.get_running_loop().add_reader(parent.sentinel, task.cancel)
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    uvloop.run(main())


def _named(url: str, name: str) -> str:
    """The URL for connections that pg_stat_activity shows under this name."""
    return f"{url}&application_name={name}"


def play_workers(load: Load, number: int, url: str, queue: Path, noting: Any, results: Any) -> None:
    """Play this process's part of the fleet until SIGTERM; then send the seconds of each statement, by kind."""
    run_until_terminated(_play_workers(load, number, url, queue, noting, results))


async def _play_workers(load: Load, number: int, url: str, queue: Path, noting: Any, results: Any) -> None:
    settings = load.settings(url)
    latencies, lost = new_latencies(), list[UUID]()

    async def connect() -> Pools:
        own = await connect_database(_named(url, "worker"), load.own_connections) if load.own_connections else None
        timed = {}
        for name in ("claim", "complete", "heartbeat"):
            pool = own or await connect_database(_named(url, name), load.connections)
            timed[name] = TimedPool(pool, latencies[name], lambda: noting.value)
        return Pools(**timed)  # type: ignore[arg-type]

    shared = None if load.own_connections else await connect()
    sqs = Receiver()
    workers = range(number, load.workers, load.processes)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(sqs.listen(queue))
            for _ in workers:
                group.create_task(run_node(load, settings, shared or await connect(), sqs, lost))
    finally:
        results.put((dict(latencies), len(lost)))


def run_scheduler(load: Load, url: str, queue: socket.socket) -> None:
    """The loops of the scheduler and the stats service's roll-up, until SIGTERM."""
    run_until_terminated(_run_scheduler(load, url, queue))


async def _run_scheduler(load: Load, url: str, queue: socket.socket) -> None:
    sqs = Sender()
    await sqs.accept(queue, load.processes)
    settings = load.settings(url)
    async with asyncio.TaskGroup() as group:
        group.create_task(keep_rolled_up(await connect_database(_named(url, "roll-up"), 2)))
        loops = make_loops(settings, Merger(), Deliverer(), Teller(), Listeners())
        loops = [loop for loop in loops if loop.name != "merge"]  # there is no S3
        group.create_task(listen(settings, loops, Quiet()))
        for loop in loops:
            pool = await connect_database(_named(url, f"scheduler: {loop.name}"), 2)
            group.create_task(loop.run(Context(pool, Aws(None, sqs, None), settings)))
