"""A worker tells what an earlier task has to make again from what no task has made."""

import zlib
from uuid import UUID

import pytest

from services.contract.location import Location
from tests.integration.worker.conftest import InProcessGrid
from tests.invariants import assert_invariants

ITEM = {"type": "item", "value": 1}


async def submitted(grid: InProcessGrid) -> tuple[UUID, str]:
    """A job of two tasks that copy, and where the first one's attempt has its files."""
    job_id = await grid.submit({"builtin": "copy"}, [ITEM, ITEM])
    return job_id, grid.settings.layout.attempt(job_id, 0, 0, 1, "").uri


async def set_input(grid: InProcessGrid, job_id: UUID, *objects: dict[str, object]) -> None:
    """Of the second task."""
    input = {"type": "objects", "objects": objects} if len(objects) > 1 else {"type": "object", **objects[0]}
    await grid.database.execute("UPDATE tasks SET input = $2 WHERE job_id = $1 AND index = 1", job_id, input)


@pytest.mark.parametrize("now", [None, b"0123", b"01234567x"], ids=["gone", "cut off", "overwritten"])
async def test_an_interim_object_that_is_lost_fails_nobody(grid: InProcessGrid, now: bytes | None) -> None:
    job_id, made = await submitted(grid)
    if now is not None:
        await grid.put(Location.parse(f"{made}out").key, now)
    crc32 = zlib.crc32(b"012345678")
    await set_input(grid, job_id, {"uri": f"{made}out", "bytes": 9, "crc32": crc32})
    await grid.dispatch(job_id)
    async with grid.node():
        await grid.until("SELECT count(*) = 1 FROM lost_outputs WHERE job_id = $1", job_id)
        await grid.until("SELECT count(*) = 0 FROM bundles WHERE job_id = $1", job_id)

    lost = await grid.database.fetchrow("SELECT * FROM lost_outputs")
    assert (lost["stage"], lost["index"], lost["attempt"]) == (0, 0, 1)
    assert (lost["reader_stage"], lost["reader_index"], lost["waits"]) == (0, 1, True)
    first, second = await grid.tasks(job_id)
    assert (second["state"], second["failures"]) == ("ready", 0)
    [attempt] = [attempt for attempt in await grid.attempts(job_id) if attempt["index"] == 1]
    assert (attempt["outcome"], attempt["error"]["type"]) == ("released", "input_lost")
    assert f"{made}out does not " in attempt["error"]["message"]
    assert first["state"] in ("ready", "succeeded")  # it runs again, if it had ended before
    await assert_invariants(grid.database, job_id)


async def test_raw_data_that_is_gone_fails_its_reader_at_once(grid: InProcessGrid) -> None:
    job_id, _ = await submitted(grid)
    raw = {"uri": f"s3://{grid.settings.bucket}/raw"}
    await set_input(grid, job_id, raw)
    [_, task] = await grid.run(job_id)
    assert (task["state"], task["error"]) == (
        "failed",
        {"type": "input_missing", "message": f"{raw['uri']} does not exist"},
    )
    assert await grid.database.fetchval("SELECT count(*) FROM lost_outputs") == 0


@pytest.mark.parametrize("place", ["0/1-1/out", "1/0-1/out", "results/out"], ids=["its own", "later", "a result"])
async def test_nothing_waits_for_what_does_not_come_before_it(grid: InProcessGrid, place: str) -> None:
    job_id, _ = await submitted(grid)
    await set_input(grid, job_id, {"uri": grid.settings.layout.job(job_id).uri + place})
    [_, task] = await grid.run(job_id)
    assert (task["state"], task["error"]["type"]) == ("failed", "input_missing")
