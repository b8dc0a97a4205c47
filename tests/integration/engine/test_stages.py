"""What a worker is told of a stage: its options, as they were submitted by this release or the one before."""

from typing import Any

from services.engine.stages import load_stage
from tests.integration.engine.play import Play

OPTIONS: dict[str, Any] = {
    "params": {"year": 2013},
    "fan_out": True,
    "memory_bytes": 1 << 30,
    "rejects_max": 7,
}


async def submit(play: Play) -> Any:
    return await play.submit(stages=[{"processor": "noop", **OPTIONS}, {"processor": "noop"}])


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
    assert await load_stage(play.database, job_id, 0) == told


async def test_a_worker_ignores_an_option_that_it_does_not_know(play: Play) -> None:
    job_id = await submit(play)
    told = await load_stage(play.database, job_id, 0)
    await play.database.execute("""UPDATE stages SET options = options || '{"of_the_next_release": 1}'""")
    assert await load_stage(play.database, job_id, 0) == told
