"""Reports reach the database whatever is in them."""

import asyncio
from uuid import uuid4

import pytest

from services.engine import stages, transitions, workers
from services.engine.attempt import AttemptReport
from services.platform.database import ENDS_CHANNEL
from services.worker.node.bundles import Bundles
from services.worker.node.completer import Completer
from tests.integration.worker.conftest import InProcessGrid
from tests.invariants import assert_invariants


async def test_a_report_that_can_not_be_stored_fails_its_task_alone(grid: InProcessGrid) -> None:
    job_id = await grid.submit({"builtin": "noop"}, [{"type": "item", "value": 1}] * 7)
    (message,) = await grid.dispatch(job_id, bundle_tasks_max=7)
    worker_id = uuid4()
    await workers.register_worker(
        grid.database, worker_id=worker_id, pool="default", hostname="h", instance_id=None, pid=1, slots=1
    )
    tasks = await transitions.claim(grid.database, worker_id, [message.bundle_id])
    bundles = Bundles()
    bundles.add(message.bundle_id, await stages.load_stage(grid.database, job_id, 0), tasks, suspect=False)
    bundle, _ = await bundles.take()
    completer = Completer(grid.database, worker_id, bundles)
    finished = [AttemptReport(job_id, 0, task.index, task.attempt, "succeeded", 0.1) for task in tasks]
    finished[2].output = {"value": {"text": "a\0b"}}  # Postgres refuses it
    finished[5].exit_code = 1 << 40  # its driver refuses it
    completer.report(bundle, finished)
    running = asyncio.create_task(completer.run())
    await completer.flushed()
    running.cancel()
    states = {task["index"]: task["state"] for task in await grid.tasks(job_id)}
    assert states == dict.fromkeys(range(7), "succeeded") | {2: "failed", 5: "failed"}
    errors = [task["error"] for task in await grid.tasks(job_id) if task["error"]]
    assert [error["type"] for error in errors] == ["output_invalid"] * 2
    assert errors[0]["message"].startswith("the result can't be stored: ")
    assert bundles.ids == frozenset()
    assert await grid.database.fetchval("SELECT count(*) FROM bundles") == 0
    await assert_invariants(grid.database, job_id)


@pytest.mark.parametrize(
    ("run_seconds", "unfinished", "gathers"),
    [(0.0, 2, 0.005), (0.1, 2, 0.02), (3600.0, 2, 0.05), (0.1, 1, 0.0)],
    ids=["short tasks", "others", "long tasks", "the last one"],
)
async def test_reports_wait_for_others_for_a_part_of_their_tasks_time_and_the_last_for_none(
    grid: InProcessGrid, run_seconds: float, unfinished: int, gathers: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await grid.submit({"builtin": "noop"}, [{"type": "item", "value": 1}] * unfinished)
    (message,) = await grid.dispatch(job_id, bundle_tasks_max=unfinished)
    worker_id, bundles = uuid4(), Bundles()
    tasks = await transitions.claim(grid.database, worker_id, [message.bundle_id])
    bundle = bundles.add(message.bundle_id, await stages.load_stage(grid.database, job_id, 0), tasks, suspect=False)
    completer = Completer(grid.database, worker_id, bundles)
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    completer.report(bundle, [AttemptReport(job_id, 0, tasks[0].index, 1, "succeeded", run_seconds)])
    running = asyncio.create_task(completer.run())
    await completer.flushed()
    running.cancel()

    assert pauses[0] == pytest.approx(gathers)


@pytest.mark.parametrize("is_open", [True, False])
async def test_whoever_waits_for_values_of_an_open_job_is_told_of_ends(grid: InProcessGrid, is_open: bool) -> None:
    job_id = await grid.submit({"builtin": "noop"}, [{"type": "item", "value": 1}] * 2)
    if is_open:
        await grid.database.execute("UPDATE stages SET open_seconds = 60 WHERE job_id = $1", job_id)
    (message,) = await grid.dispatch(job_id, bundle_tasks_max=2)
    worker_id, bundles, told = uuid4(), Bundles(), asyncio.Queue[str]()
    tasks = await transitions.claim(grid.database, worker_id, [message.bundle_id])
    bundle = bundles.add(message.bundle_id, await stages.load_stage(grid.database, job_id, 0), tasks, suspect=False)
    completer = Completer(grid.database, worker_id, bundles)
    running = asyncio.create_task(completer.run())

    def hear(_: object, pid: int, channel: str, payload: object) -> None:
        told.put_nowait(str(payload))

    async with grid.database.acquire() as connection:
        await connection.add_listener(ENDS_CHANNEL, hear)
        for task in tasks:
            completer.report(bundle, [AttemptReport(job_id, 0, task.index, 1, "succeeded", 0.1)])
            await completer.flushed()
        await grid.database.execute("SELECT pg_notify($1, 'last')", ENDS_CHANNEL)
        heard = [await told.get()]
        while heard[-1] != "last":
            heard.append(await told.get())
        await connection.remove_listener(ENDS_CHANNEL, hear)
    running.cancel()
    assert set(heard) == ({str(job_id), "last"} if is_open else {"last"})
