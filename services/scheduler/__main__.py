"""Run all loops of the scheduler in one process: `python -m services.scheduler`. Any number of them can run."""

import argparse
import asyncio
import signal
from functools import partial

import structlog
import uvloop

from services.engine.schema import wait_for_schema
from services.platform.aws import connect_aws, require_region
from services.platform.database import JOBS_CHANNEL, TASKS_CHANNEL, WEBHOOKS_CHANNEL, connect_database
from services.platform.health import DATABASE_AWAITED, VITALS, serving
from services.platform.logs import configure_logs
from services.platform.process import hide_environment
from services.platform.settings import Settings, read_settings
from services.platform.tracing import configure_tracing
from services.platform.version import VERSION
from services.scheduler.loop import Context, Loop, listen, wake_resting
from services.scheduler.loops import (
    alerts,
    chain,
    clock,
    columns,
    depths,
    dispatch,
    finish,
    follow,
    leftovers,
    look,
    maintain,
    outbox,
    plan,
    reap,
    renew,
    resend,
    retain,
    scale,
    stragglers,
)
from services.scheduler.loops.alerts import Teller
from services.scheduler.loops.triggers import Listeners
from services.scheduler.loops.webhooks import Deliverer, give_up
from services.scheduler.merges.merge import Merger
from services.scheduler.noted import keep_noting

log = structlog.get_logger()

HOUR_SECONDS = 3600.0


def make_loops(
    settings: Settings, merger: Merger, deliverer: Deliverer, teller: Teller, listeners: Listeners
) -> list[Loop]:
    """Every loop, with its pauses and what wakes it."""
    busy, idle = settings.loop_seconds, settings.idle_seconds
    jobs, deliveries = frozenset([JOBS_CHANNEL]), frozenset([WEBHOOKS_CHANNEL])
    tasks = frozenset([JOBS_CHANNEL, TASKS_CHANNEL])
    return [
        Loop("look", look.step, busy_seconds=busy, idle_seconds=idle),
        Loop("clock", clock.step, busy_seconds=0.0, idle_seconds=min(idle, 1.0), channels=jobs, rests=True),
        Loop("plan", plan.step, busy_seconds=busy, idle_seconds=idle, channels=jobs, rests=True),
        Loop("columns", columns.step, busy_seconds=busy, idle_seconds=idle, channels=jobs, rests=True),
        Loop("chain", chain.step, busy_seconds=busy, idle_seconds=idle, channels=tasks, rests=True),
        Loop("dispatch", dispatch.step, busy_seconds=busy, idle_seconds=idle, channels=tasks, rests=True),
        Loop("finish", finish.step, busy_seconds=busy, idle_seconds=idle, channels=tasks, rests=True),
        Loop("follow", follow.step, busy_seconds=busy, idle_seconds=min(idle, 1.0), channels=tasks, rests=True),
        Loop("merge", merger.step, busy_seconds=busy, idle_seconds=idle, channels=jobs, rests=True),
        Loop("reap", reap.step, busy_seconds=busy, idle_seconds=min(idle, settings.lease_seconds / 10)),
        Loop("resend", resend.step, busy_seconds=busy, idle_seconds=min(idle, settings.lease_seconds / 10), rests=True),
        Loop("renew", renew.step, busy_seconds=busy, idle_seconds=min(idle, 1.0), channels=jobs, rests=True),
        Loop("stragglers", stragglers.step, busy_seconds=min(idle, 1.0), idle_seconds=idle, rests=True),
        Loop("outbox", outbox.step, busy_seconds=busy, idle_seconds=min(idle, 1.0), channels=jobs, rests=True),
        Loop("triggers", listeners.step, busy_seconds=min(idle, 1.0), idle_seconds=min(idle, 1.0), rests=True),
        Loop(
            "webhooks",
            deliverer.step,
            busy_seconds=0.0,
            idle_seconds=min(idle, 1.0),
            channels=deliveries,
            rests=True,
            wake=deliverer.ended,
        ),
        Loop("alerts", alerts.step, busy_seconds=busy, idle_seconds=idle, channels=deliveries, rests=True),
        Loop(
            "alert_messages",
            teller.step,
            busy_seconds=0.0,
            idle_seconds=min(idle, 1.0),
            channels=deliveries,
            rests=True,
            wake=teller.ended,
        ),
        Loop("webhooks_given_up", give_up, busy_seconds=busy, idle_seconds=idle, rests=True),
        Loop("scale", scale.step, busy_seconds=busy, idle_seconds=settings.scale_seconds, rests=True),
        Loop("depths", depths.step, busy_seconds=busy, idle_seconds=depths.IDLE_SECONDS),
        Loop("retain", retain.step, busy_seconds=busy, idle_seconds=idle, rests=True),
        Loop("leftovers", leftovers.step, busy_seconds=1.0, idle_seconds=HOUR_SECONDS),
        Loop("maintain", maintain.step, busy_seconds=1.0, idle_seconds=HOUR_SECONDS),
    ]


async def run(settings: Settings) -> None:
    """Run the loops until cancelled."""
    merger, deliverer, teller, listeners = Merger(), Deliverer(), Teller(), Listeners()
    loops = make_loops(settings, merger, deliverer, teller, listeners)
    connections = settings.database_connections_max + len(loops)
    database = await connect_database(settings, connections, seconds=settings.database_seconds)
    VITALS.waits_for = DATABASE_AWAITED
    async with serving(settings), connect_aws(settings) as aws:
        context = Context(database, aws, settings)
        context.quiet.wake = partial(wake_resting, loops)
        try:
            await wait_for_schema(database)
            VITALS.waits_for = None
            log.info("scheduler started", loops=[loop.name for loop in loops])
            async with asyncio.TaskGroup() as group:
                group.create_task(listen(settings, loops, context.quiet))
                group.create_task(keep_noting(database, loops))
                for loop in loops:
                    group.create_task(loop.run(context), name=loop.name)
        finally:
            await merger.stop()
            await deliverer.stop()
            await teller.stop()
            VITALS.forget_all()
            await listeners.stop(context)
            for slots in context.slots.values():
                await slots.stop()
            database.terminate()


async def main() -> None:
    """Run until SIGTERM or SIGINT: every step is a transaction, so stopping between any two is safe."""
    settings = read_settings(Settings)
    hide_environment()
    require_region()
    configure_logs("scheduler", settings.log_level)
    configure_tracing("scheduler")
    running = asyncio.create_task(run(settings))
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        log.info("scheduler stopped")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m services.scheduler", description=__doc__)
    parser.add_argument("--version", action="version", version=f"piecework {VERSION}")
    parser.parse_args()
    uvloop.run(main())
