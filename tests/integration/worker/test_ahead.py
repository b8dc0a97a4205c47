"""While a task runs, the next one's input is fetched; that it waits for the slot is not its time."""

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest

from services.contract.task_input import Item
from services.engine.attempt import ClaimedTask
from services.engine.spec import ProcessorSpec
from services.platform import effects
from services.worker.isolation.cells import Cells
from services.worker.node.node import equip
from services.worker.task.attempt import run_attempt
from services.worker.task.turn import Turn
from services.worker.task.warm_children import WarmChildren
from tests.integration.worker.conftest import InProcessGrid
from tests.integration.worker.test_node import runs
from tests.stages import stage_work
from tests.until import until

pytestmark = pytest.mark.usefixtures("tells_outside")


def until_told(started: Path, go: Path) -> list[str]:
    """A command that says that it runs, and ends as soon as it may."""
    script = f"echo $$ > {started}.$$ && mv {started}.$$ {started}; until [ -e {go} ]; do sleep 0.02; done; cat $1 > $2"
    return ["sh", "-c", script, "sh", "{input}", "{output}"]


async def test_one_input_is_fetched_ahead(grid: InProcessGrid, tmp_path: Path) -> None:
    started, go = tmp_path / "pid", tmp_path / "go"
    inputs = [{"type": "object", **await grid.put(f"in/{n}.txt", f"{n}".encode())} for n in range(4)]
    job_id = await grid.submit({"command": until_told(started, go)}, inputs)
    await grid.dispatch(job_id, bundle_tasks_max=4)
    fetched: list[effects.Effect] = []

    def watcher(moment: effects.Moment, effect: effects.Effect) -> None:
        if (moment, effect.name) == ("after", "GetObject"):
            fetched.append(effect)

    async def one_is_ahead() -> bool:
        return len(fetched) == 2

    effects.watch(watcher)
    try:
        async with grid.node(slots=1):
            await runs(grid, started)
            await until(one_is_ahead)
            await grid.until("SELECT busy = 1 FROM workers")
            assert await one_is_ahead()
            go.touch()
            await grid.ended(job_id)
    finally:
        effects.watch(None)
    tasks = await grid.tasks(job_id)
    assert [await grid.get(task["output"]["uri"]) for task in tasks] == [b"0", b"1", b"2", b"3"]


async def test_the_wait_for_a_slot_is_not_the_tasks_time(grid: InProcessGrid, tmp_path: Path) -> None:
    timeout_seconds = 0.5
    task = ClaimedTask(uuid4(), uuid4(), 0, 0, 1, Item(1))
    stage = stage_work(task.job_id, ProcessorSpec(command=["true"]), timeout_seconds=timeout_seconds)
    free: asyncio.LifoQueue[WarmChildren] = asyncio.LifoQueue()
    given_back = asyncio.Event()
    turn = Turn(free, lambda: None, given_back.set)
    equipment = equip(grid.settings, grid.aws.s3, Cells("process", tmp_path))
    attempt = asyncio.create_task(run_attempt(equipment, task, stage, turn))

    async def waits() -> bool:
        return turn.phase == "waiting"

    await until(waits)
    worked_seconds = turn.working_seconds
    done, _ = await asyncio.wait({attempt}, timeout=1.2 * timeout_seconds)
    assert not done
    assert turn.working_seconds == worked_seconds < timeout_seconds

    attempt.cancel()
    await asyncio.wait({attempt})
    assert attempt.cancelled() and not given_back.is_set()


async def test_an_attempt_tells_how_long_it_fetched_ran_and_put(grid: InProcessGrid) -> None:
    inputs = [{"type": "object", **await grid.put("in/a.txt", b"a")}]
    job_id = await grid.submit({"command": ["sh", "-c", "sleep 0.3; cp $1 $2", "sh", "{input}", "{output}"]}, inputs)
    await grid.dispatch(job_id)
    async with grid.node(slots=1):
        await grid.ended(job_id)
    attempt = await grid.database.fetchrow("SELECT * FROM attempts WHERE job_id = $1", job_id)
    assert attempt is not None
    assert attempt["fetch_seconds"] > 0
    assert attempt["put_seconds"] > 0
    assert attempt["run_seconds"] >= attempt["fetch_seconds"] + 0.3 + attempt["put_seconds"]
