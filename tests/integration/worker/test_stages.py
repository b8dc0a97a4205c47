"""What a worker remembers of a stage."""

from services.worker.node.stages import Stages
from tests.integration.worker.conftest import InProcessGrid

ITEM = {"type": "item", "value": 1}


async def test_a_stage_is_asked_for_until_the_size_of_its_array_is_known(grid: InProcessGrid) -> None:
    job_id = await grid.submit({"builtin": "noop"}, [ITEM] * 2)
    await grid.database.execute("UPDATE stages SET options = options - 'array', task_count = 2")
    stages = Stages(grid.database)
    assert (await stages.get(job_id, 0)).array is None

    await grid.database.execute("UPDATE stages SET planned = true")
    known = await stages.get(job_id, 0)
    assert known.array is not None and list(known.array.numbers) == [0, 1]

    await grid.database.execute("DELETE FROM stages")
    assert await stages.get(job_id, 0) is known
