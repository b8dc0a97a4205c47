"""Stages that a worker can't read, since a newer release has stored them: nothing else waits, and each has its end."""

from typing import Any
from uuid import UUID

from structlog.testing import capture_logs

from services.contract.message import Message
from tests.integration.worker.conftest import InProcessGrid
from tests.invariants import assert_invariants
from tests.until import until

ITEM = {"type": "item", "value": 1}
NEWER = {"quantum": "entangle:pairs"}  # a kind of processor that this release does not know


async def submit_newer(grid: InProcessGrid, tasks: int = 1, spec: dict[str, Any] = NEWER) -> UUID:
    """A job whose processor a newer API has stored."""
    job_id = await grid.submit({"builtin": "noop"}, [ITEM] * tasks)
    await grid.database.execute(
        "UPDATE processors SET spec = $2 WHERE (name, version) = "
        "(SELECT processor, processor_version FROM stages WHERE job_id = $1)",
        job_id,
        spec,
    )
    return job_id


async def put_off(grid: InProcessGrid, message: Message, times: int) -> float:
    """Wait until the bundle was put off so often; returns after how many seconds it is offered again."""
    await grid.until("SELECT put_off = $2 FROM bundles WHERE bundle_id = $1", message.bundle_id, times)
    wait = await grid.database.fetchval(
        "SELECT extract(epoch FROM send_at - now())::float8 FROM bundles WHERE bundle_id = $1", message.bundle_id
    )
    return float(wait)


async def queue_empties(grid: InProcessGrid) -> None:
    async def empty() -> bool:
        return await grid.queue_depth() == 0

    await until(empty)


async def test_fields_of_the_next_release_are_ignored(grid: InProcessGrid) -> None:
    job_id = await submit_newer(grid, spec={"builtin": "noop", "field_of_the_next_release": True})

    [task] = await grid.run(job_id)

    assert (task["state"], task["attempt"]) == ("succeeded", 1)


async def test_a_stage_that_can_not_be_read_waits_and_nothing_else_does(grid: InProcessGrid) -> None:
    newer, other = await submit_newer(grid, 3), await grid.submit({"builtin": "noop"}, [ITEM] * 4)
    messages = await grid.dispatch(newer, bundle_tasks_max=3)
    await grid.dispatch(other)

    with capture_logs() as logs:
        async with grid.node():
            await grid.ended(other)
            await put_off(grid, messages[0], 1)
            await queue_empties(grid)

    assert [task["state"] for task in await grid.tasks(other)] == ["succeeded"] * 4
    assert [(task["state"], task["attempt"]) for task in await grid.tasks(newer)] == [("queued", 0)] * 3
    assert await grid.attempts(newer) == []
    await assert_invariants(grid.database, newer)
    [warning] = [line for line in logs if line["log_level"] == "warning"]
    assert (warning["event"], warning["job"]) == ("bundle put off", str(newer))
    assert "this release can't read the processor p@1: give exactly one of" in warning["why"]


async def test_each_offer_comes_after_twice_the_wait_and_a_worker_that_can_read_it_takes_it(
    grid: InProcessGrid,
) -> None:
    job_id = await submit_newer(grid)
    [message] = await grid.dispatch(job_id)
    waits = []
    async with grid.node():
        for times in range(1, 9):
            waits.append(round(await put_off(grid, message, times)))
            await grid.send(message.encode())
        await put_off(grid, message, 9)
        await grid.database.execute("UPDATE processors SET spec = '{\"builtin\": \"noop\"}' WHERE name = 'p'")
        await grid.send(message.encode())
        await grid.ended(job_id)

    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    [task] = await grid.tasks(job_id)
    assert (task["state"], task["attempt"]) == ("succeeded", 1)


async def test_after_an_hour_of_offers_the_tasks_fail_and_say_why(grid: InProcessGrid) -> None:
    job_id = await submit_newer(grid, 2)
    await grid.dispatch(job_id, bundle_tasks_max=2)
    await grid.database.execute("UPDATE bundles SET put_off = 64")

    async with grid.node():
        await grid.ended(job_id)
        await queue_empties(grid)

    for task in await grid.tasks(job_id):
        assert (task["state"], task["failures"], task["error"]["type"]) == ("failed", 1, "stage_unreadable")
        assert "can't read the processor p@1" in task["error"]["message"]
        assert "update the workers, then retry the job" in task["error"]["message"]
    assert await grid.database.fetchval("SELECT count(*) FROM bundles") == 0
    await assert_invariants(grid.database, job_id)


async def test_the_bundles_of_a_job_that_was_deleted_by_hand_end(grid: InProcessGrid) -> None:
    gone, other = await grid.submit({"builtin": "noop"}, [ITEM]), await grid.submit({"builtin": "noop"}, [ITEM])
    for job_id in (gone, other):
        await grid.dispatch(job_id)
    await grid.database.execute("DELETE FROM jobs WHERE job_id = $1", gone)

    async with grid.node():
        await grid.ended(other)
        await queue_empties(grid)

    assert await grid.database.fetchval("SELECT count(*) FROM bundles") == 0
    assert [task["state"] for task in await grid.tasks(other)] == ["succeeded"]


async def test_a_processor_that_was_deleted_by_hand_is_what_the_log_names(grid: InProcessGrid) -> None:
    job_id = await grid.submit({"builtin": "noop"}, [ITEM])
    [message] = await grid.dispatch(job_id)
    await grid.database.execute("DELETE FROM processors WHERE name = 'p'")

    with capture_logs() as logs:
        async with grid.node():
            await put_off(grid, message, 1)

    assert "the processor p@1 was deleted" in [line.get("why") for line in logs]
