"""What a claim hands out: typed inputs, also of values that SQL makes, and of values that nobody can read."""

from services.contract.location import Location
from services.contract.task_input import Index, Item, UnknownInput, WholeObject
from services.engine import transitions
from tests.integration.engine.play import Play, finished

OUTPUTS = [{"uri": "s3://b/k", "bytes": 3, "crc32": 9}, {"uri": "s3://b/old"}, {"value": {"n": 1}}, None]
SUCCESSORS = [
    WholeObject(Location("b", "k"), bytes=3, crc32=9),
    WholeObject(Location("b", "old")),
    Item({"n": 1}),
    Item(None),
]


async def test_a_success_makes_an_input_that_its_successor_can_read(play: Play) -> None:
    job_id, worker_id = await play.submit(stages=2), await play.register()
    await play.plan(job_id, 4)
    tasks = await play.run(worker_id, job_id)
    assert [task.input for task in tasks] == [Index(4)] * 4

    await play.complete(worker_id, *(finished(t, output=o) for t, o in zip(tasks, OUTPUTS, strict=True)), done=tasks)

    assert [task.input for task in await play.run(worker_id, job_id, 1)] == SUCCESSORS


async def test_a_barrier_makes_inputs_that_tasks_can_read(play: Play) -> None:
    stages = [{"processor": "noop"}, {"processor": "noop", "barrier": True}]
    job_id, worker_id = await play.submit(stages=stages), await play.register()
    await play.plan(job_id, 4)
    tasks = await play.run(worker_id, job_id)
    await play.complete(worker_id, *(finished(t, output=o) for t, o in zip(tasks, OUTPUTS, strict=True)), done=tasks)
    async with play.database.acquire() as connection:
        await transitions.plan_outputs(connection, job_id, 1, -1, 10)

    assert [task.input for task in await play.run(worker_id, job_id, 1)] == SUCCESSORS


async def test_an_unreadable_input_leaves_its_bundle_as_it_is(play: Play) -> None:
    job_id, worker_id = await play.submit(), await play.register()
    async with play.database.acquire() as connection:
        values = [{"type": "of_the_next_release"}, {"type": "object", "uri": "b/k"}, {"type": "item", "value": 1}, 7]
        await transitions.plan_tasks(connection, job_id, 0, 0, values)

    later, damaged, good, number = [task.input for task in await play.run(worker_id, job_id)]

    assert later == UnknownInput("this worker knows no input of type 'of_the_next_release'")
    assert isinstance(damaged, UnknownInput) and "'b/k' is not an S3 URI" in damaged.reason
    assert good == Item(1)
    assert isinstance(number, UnknownInput)
