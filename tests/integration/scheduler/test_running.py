"""The whole process: all loops at once, woken by NOTIFY, or by polling alone; ended by a signal."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from services.contract.message import Message
from services.platform.database import JOBS_CHANNEL
from services.platform.settings import Settings
from services.scheduler import __main__ as scheduler
from services.scheduler.loop import Context, Loop, listen
from tests.forks import Fork
from tests.integration.engine.play import Play
from tests.integration.scheduler.conftest import Bucket, Queue
from tests.invariants import assert_invariants
from tests.until import until

HOUR = 3600.0


async def deaf(*_: object) -> None:
    """Listens to nothing."""
    await asyncio.Event().wait()


@pytest.fixture(params=["woken", "polling"])
async def running(
    settings: Settings, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[None]:
    """A scheduler that only NOTIFY wakes, and one that hears none."""
    idle_seconds = HOUR if request.param == "woken" else 0.05
    if request.param == "polling":
        monkeypatch.setattr(scheduler, "listen", deaf)
    task = asyncio.create_task(scheduler.run(settings.model_copy(update={"idle_seconds": idle_seconds})))
    yield
    assert not task.done(), task
    task.cancel()
    await asyncio.wait({task})


async def work_until_ended(play: Play, queue: Queue, job_id: UUID) -> dict[str, Any]:
    """A worker claims by the messages it gets, until the job has ended."""
    worker_id = await play.register()

    async def ended() -> dict[str, Any] | None:
        messages = [Message.decode(body) for body in await queue.receive()]
        await play.succeed(worker_id, await play.claim(worker_id, messages))
        job = await play.job(job_id)
        return job if job["state"] in ("succeeded", "failed", "cancelled") else None

    job: dict[str, Any] = await until(ended)
    return job


async def test_a_job_runs_from_its_input_to_its_results(
    running: None, play: Play, queue: Queue, bucket: Bucket
) -> None:
    uri = await bucket.put("in", b"line\n" * 20)
    job_id = await play.submit(input={"type": "lines", "uri": uri, "part_bytes": 10}, stages=2)

    job = await work_until_ended(play, queue, job_id)

    assert job["state"] == "succeeded"
    assert await play.states(job_id, 1) == {"succeeded": 10}
    manifest = (await play.stage(job_id, 1))["result"]["manifest"]
    assert b'"parts":10' in await bucket.get(manifest["uri"])
    await assert_invariants(play.database, job_id)


async def test_a_notification_wakes_the_loops_of_its_channel_and_a_lost_connection_is_made_again(
    context: Context,
) -> None:
    async def nothing(_: Context) -> bool:
        return False

    mine, others = (Loop(name, nothing, HOUR, HOUR, frozenset([name])) for name in (JOBS_CHANNEL, "other"))
    listening = asyncio.create_task(listen(context.settings, [mine, others], context.quiet))
    try:
        for _ in range(2):
            await asyncio.wait_for(mine.wake.wait(), 10)  # whatever came before it listened
            await asyncio.wait_for(others.wake.wait(), 10)
            mine.wake.clear()
            others.wake.clear()
            await context.database.execute("SELECT pg_notify($1, '')", JOBS_CHANNEL)
            await asyncio.wait_for(mine.wake.wait(), 10)
            assert not others.wake.is_set()
            mine.wake.clear()
            await context.database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            )
    finally:
        listening.cancel()
        await asyncio.wait({listening})


async def test_the_process_ends_in_order_when_it_is_told_to(settings: Settings, play: Play, tmp_path: Path) -> None:
    environment = os.environ | {
        "PIECEWORK_DATABASE_URL": settings.database_url,
        "PIECEWORK_AWS_ENDPOINT_URL": str(settings.aws_endpoint_url),
        "PIECEWORK_BUCKET": settings.bucket,
    }
    process = Fork("services.scheduler", env=environment, log=tmp_path / "log")
    try:
        job_id = await play.submit(input={"type": "range", "count": 3})

        async def queued() -> bool:
            return (await play.states(job_id)).get("queued", 0) > 0

        await until(queued)
    finally:
        process.terminate()
        code = await asyncio.wait_for(process.ended(), 20)

    assert code == 0
    assert '"scheduler stopped"' in process.lines[-1]
    assert "Traceback" not in process.output, process.output
