"""Tasks and nodes of different sizes: each task runs where there is room for it, beside others that fit."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.contract.message import Message
from tests.integration.worker.conftest import InProcessGrid
from tests.invariants import assert_invariants
from tests.until import until

ITEM = {"type": "item", "value": 1}
SMALL = {"cpus": 2.0, "memory": 2 << 30, "gpus": 0, "disk": 1 << 30}
LARGE = {"cpus": 8.0, "memory": 16 << 30, "gpus": 2, "disk": 4 << 30}

# Tells what it may use, and how many are there at once; waits until as many are there as were once, or for a while.
TELL = """
import json, os, sys, time
meet, least, output = sys.argv[1:]
begun = os.path.join(meet, f"{os.environ['PIECEWORK_JOB_ID']}-{os.environ['PIECEWORK_TASK_INDEX']}")
open(begun, "w").close()
met, deadline = 0, time.monotonic() + 20
while not os.path.exists(f"{meet}-all") and time.monotonic() < deadline:
    met = max(met, len(os.listdir(meet)))
    if met >= int(least):
        open(f"{meet}-all", "w").close()
    time.sleep(0.02)
seen = {"met": met, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "cpus": os.environ["SLURM_CPUS_PER_TASK"], "mb": os.environ["SLURM_MEM_PER_NODE"]}
os.unlink(begun)
json.dump(seen, open(output, "w"))
"""


@pytest.fixture
def meeting(tmp_path: Path) -> Path:
    place = tmp_path / "meeting"
    place.mkdir()
    place.chmod(0o777)
    return place


def telling(meeting: Path, least: int) -> dict[str, Any]:
    """A command that waits until this many of them are there."""
    return {"command": ["python3", "-c", TELL, str(meeting), str(least), "{output}"]}


async def told(grid: InProcessGrid, job_id: Any) -> list[dict[str, Any]]:
    return [json.loads(await grid.get(task["output"]["uri"])) for task in await grid.tasks(job_id)]


OPEN = {"isolation": "process"}  # so that tasks of several children meet in a directory


async def test_as_many_tasks_as_fit_run_beside_each_other_whatever_the_slots(
    grid: InProcessGrid, meeting: Path
) -> None:
    job_id = await grid.submit(telling(meeting, 4), [ITEM] * 8, cpus=2, memory="512MiB")
    await grid.dispatch(job_id)
    async with grid.node(**OPEN, slots=1, **LARGE):
        await grid.ended(job_id)
    answers = await told(grid, job_id)
    assert max(answer["met"] for answer in answers) == 4  # 8 cores
    assert {(answer["cpus"], answer["mb"], answer["gpus"]) for answer in answers} == {("2", "512", "")}
    await assert_invariants(grid.database, job_id)


async def test_tasks_beside_each_other_have_different_gpus(grid: InProcessGrid, meeting: Path) -> None:
    job_id = await grid.submit(telling(meeting, 2), [ITEM] * 2, gpus=1, cpus=1, memory="512MiB")
    await grid.dispatch(job_id)
    async with grid.node(**OPEN, slots=4, **LARGE):
        await grid.ended(job_id)
    answers = await told(grid, job_id)
    assert max(answer["met"] for answer in answers) == 2
    assert sorted(answer["gpus"] for answer in answers) == ["0", "1"]


async def test_each_task_runs_on_a_node_that_has_what_it_needs(grid: InProcessGrid, meeting: Path) -> None:
    command = telling(meeting, 0)
    jobs = {
        "plain": await grid.submit(command, [ITEM] * 4),
        "large": await grid.submit(command, [ITEM] * 2, cpus=6),
        "gpu": await grid.submit(command, [ITEM] * 2, gpus=2),
        "disk": await grid.submit(command, [ITEM] * 2, disk="2GiB"),
    }
    async with grid.node(**OPEN, slots=2, **SMALL):
        await grid.until("SELECT count(*) = 1 FROM workers WHERE state = 'active'")
        for job_id in jobs.values():
            await grid.dispatch(job_id)
        await grid.ended(jobs["plain"])
        async with grid.node(**OPEN, slots=2, **LARGE):
            for job_id in jobs.values():
                await grid.ended(job_id)
    small = await grid.database.fetchval("SELECT worker_id FROM workers WHERE gpus = 0")
    for name, job_id in jobs.items():
        attempts = await grid.attempts(job_id)
        assert [attempt["outcome"] for attempt in attempts] == ["succeeded"] * len(await grid.tasks(job_id))
        assert name == "plain" or small not in {attempt["worker_id"] for attempt in attempts}
        await assert_invariants(grid.database, job_id)


async def test_an_earlier_schedulers_message_says_nothing_and_the_bundle_waits_for_room(
    grid: InProcessGrid, meeting: Path
) -> None:
    job_id = await grid.submit(telling(meeting, 0), [ITEM], cpus=4)
    [message] = await grid.dispatch(job_id, times=0)
    silent = Message(message.bundle_id, message.job_id, 0, 0, 1)
    async with grid.node(**OPEN, slots=2, **SMALL):
        await grid.send(silent.encode())

        async def refused() -> bool:
            return await grid.queue_depth() == 0

        await until(refused)
        [task] = await grid.tasks(job_id)
        assert (task["state"], task["attempt"]) == ("queued", 0)
    await grid.send(silent.encode())
    async with grid.node(**OPEN, slots=2, **LARGE):
        await grid.ended(job_id)
    [task] = await grid.tasks(job_id)
    assert (task["state"], task["attempt"]) == ("succeeded", 1)


async def test_memory_that_a_stage_asks_for_is_the_limit(grid: InProcessGrid) -> None:
    eat = "held = bytearray(300 << 20); held[::4096] = b'1' * len(held[::4096]); import time; time.sleep(30)"
    job_id = await grid.submit({"command": ["python3", "-c", eat]}, [ITEM], memory=100 << 20)
    (task,) = await grid.run(job_id)
    assert task["error"]["type"] == "memory"
    assert "the memory that the stage asks for" in task["error"]["message"]


async def test_a_large_task_gets_its_room_though_small_ones_take_whatever_gets_free(
    grid: InProcessGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.worker.node.receiver._WAITED_SECONDS", 0.5)
    nap = {"command": ["sleep", "0.4"]}
    before, after = await grid.submit(nap, [ITEM] * 10), await grid.submit(nap, [ITEM] * 300)
    large = await grid.submit(nap, [ITEM] * 2, cpus=8)
    async with grid.node(**OPEN, slots=2, **LARGE):
        await grid.dispatch(before)
        await grid.until("SELECT count(*) > 0 FROM attempts")
        await grid.dispatch(large)
        await grid.dispatch(after)
        await grid.ended(large)
        left = await grid.database.fetchval("SELECT count(*) FROM tasks WHERE state = 'queued'")
    assert left > 100  # they went on meanwhile, and did not come first
    assert {attempt["outcome"] for attempt in await grid.attempts(large)} == {"succeeded"}
