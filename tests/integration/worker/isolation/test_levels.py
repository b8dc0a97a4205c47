"""A node's level of isolation, and what processors ask of it."""

from pathlib import Path

from tests.integration.worker.conftest import InProcessGrid

ITEM = {"type": "item", "value": 1}


async def test_a_worker_says_how_strongly_it_keeps_tasks_apart(grid: InProcessGrid) -> None:
    async with grid.node(isolation="process"):
        await grid.until("SELECT isolation = 'process' FROM workers")


async def test_tasks_without_network_fail_where_a_worker_cannot_take_it_from_them(grid: InProcessGrid) -> None:
    job_id = await grid.submit({"command": ["true"], "network": False}, [ITEM])
    await grid.dispatch(job_id)
    async with grid.node(isolation="process"):
        await grid.ended(job_id)
    (task,) = await grid.tasks(job_id)
    assert task["error"]["type"] == "processor_load"
    assert "run it with PIECEWORK_ISOLATION=sandbox" in task["error"]["message"]


async def test_jobs_share_a_process_only_if_their_processor_says_so(grid: InProcessGrid, code: Path) -> None:
    (code / "counting.py").write_text(
        "calls = []\ndef count(input, output):\n    calls.append(1)\n    return {'calls': len(calls)}\n"
    )
    own = {"callable": "counting:count"}
    jobs = [await grid.submit(processor, [ITEM]) for processor in (own, own, *[own | {"share_children": True}] * 2)]
    for job_id in jobs:
        await grid.dispatch(job_id)
    async with grid.node(slots=1):
        for job_id in jobs:
            await grid.ended(job_id)
    calls = [task["output"]["value"]["calls"] for job_id in jobs for task in await grid.tasks(job_id)]
    assert (calls[:2], sorted(calls[2:])) == ([1, 1], [1, 2])
