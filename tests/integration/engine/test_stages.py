"""What a worker is told of a stage: its options, as they were submitted by this release or the one before."""

from typing import Any
from uuid import UUID

import pytest

from services.engine.stages import load_stage
from tests.integration.engine.play import Play

OPTIONS: dict[str, Any] = {
    "params": {"year": 2013},
    "fan_out": True,
    "memory_bytes": 1 << 30,
    "rejects_max": 7,
}


async def submit(play: Play) -> Any:
    job_id = await play.submit(stages=[{"processor": "noop", **OPTIONS}, {"processor": "noop"}])
    await play.plan(job_id, 1)
    return job_id


async def test_a_worker_gets_the_options_as_they_were_submitted(play: Play) -> None:
    job_id = await submit(play)
    work = await load_stage(play.database, job_id, 0)
    assert {name: getattr(work, name) for name in OPTIONS} == OPTIONS
    following = await load_stage(play.database, job_id, 1)
    assert {name: getattr(following, name) for name in OPTIONS} == {
        "params": {},
        "fan_out": False,
        "memory_bytes": None,
        "rejects_max": None,
    }


async def test_the_stages_of_the_release_before_have_their_options_in_columns(play: Play) -> None:
    job_id = await submit(play)
    told = await load_stage(play.database, job_id, 0)
    await play.database.execute("UPDATE stages SET options = NULL")
    assert await load_stage(play.database, job_id, 0) == told.model_copy(update={"interim": False})


async def test_a_worker_ignores_an_option_that_it_does_not_know(play: Play) -> None:
    job_id = await submit(play)
    told = await load_stage(play.database, job_id, 0)
    await play.database.execute("""UPDATE stages SET options = options || '{"of_the_next_release": 1}'""")
    assert await load_stage(play.database, job_id, 0) == told


# The array job that a stage is.

NOOP = {"processor": "noop"}
LINES = {"type": "lines", "uri": "s3://b/a.csv"}


async def numbers(play: Play, job_id: UUID, stage: int) -> list[int] | None:
    work = await load_stage(play.database, job_id, stage)
    return None if work.array is None else list(work.array.numbers)


@pytest.mark.parametrize(
    ("input", "expected"),
    [
        ({"type": "range", "count": 3}, [0, 1, 2]),
        ({"type": "range", "start": 1, "stop": 10, "step": 4}, [1, 5, 9]),
        ({"type": "range", "values": [7, 3]}, [7, 3]),
        ({"type": "items", "items": ["a", "b"]}, [0, 1]),
        ([{"type": "range", "count": 3}, {"type": "items", "items": ["a", "b"]}], [0, 1, 2, 3, 4]),
        ([{"type": "range", "count": 3}, LINES], None),
        (LINES, None),
    ],
)
async def test_a_chain_knows_its_array_before_anything_is_planned(play: Play, input: Any, expected: Any) -> None:
    chain = [NOOP, NOOP, {**NOOP, "barrier": True}]
    job_id = await play.submit(input=input, stages=chain)
    assert [await numbers(play, job_id, stage) for stage in range(3)] == [expected] * 3


async def test_a_chain_knows_the_number_of_its_first_tasks_when_these_are_planned(play: Play) -> None:
    job_id = await play.submit(input=LINES, stages=[NOOP, NOOP])
    await play.plan(job_id, 4, planned=False)
    assert [await numbers(play, job_id, stage) for stage in range(2)] == [None, None]
    await play.plan(job_id, 2, first=4)
    assert [await numbers(play, job_id, stage) for stage in range(2)] == [[0, 1, 2, 3, 4, 5]] * 2


async def test_the_stage_after_a_fan_out_is_an_array_of_its_own(play: Play) -> None:
    input = {"type": "range", "start": 5, "stop": 7}
    job_id = await play.submit(input=input, stages=[{**NOOP, "fan_out": True}, NOOP, NOOP])
    assert [await numbers(play, job_id, stage) for stage in range(3)] == [[5, 6], None, None]
    await play.database.execute("UPDATE stages SET planned = true, task_count = 3 WHERE stage = 1")
    assert [await numbers(play, job_id, stage) for stage in range(3)] == [[5, 6], [0, 1, 2], [0, 1, 2]]
