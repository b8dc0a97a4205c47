"""Every NOTIFY is lost, and nobody knows: a job takes longer by some looks, and that is all."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.platform.database import GatedConnection
from services.scheduler import __main__ as scheduler
from services.scheduler.loop import Context
from services.scheduler.quiet import QUIET_SECONDS
from tests.grid import ProcessGrid
from tests.until import until

_WAITED = """
    SELECT extract(epoch FROM min(t.queued_at) - j.created_at)::float8 AS for_tasks,
        extract(epoch FROM j.finished_at - max(t.finished_at))::float8 AS for_the_end
    FROM jobs AS j JOIN tasks AS t USING (job_id) WHERE j.job_id = $1 GROUP BY j.job_id"""


@pytest.fixture
async def deaf(grid: ProcessGrid, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Context]]:
    """The context of a scheduler that listens, but is told nothing."""
    contexts: list[Context] = []

    async def add_listener(*_: object) -> None:
        """It hears nothing."""

    def make_context(*arguments: object) -> Context:
        contexts.append(Context(*arguments))  # type: ignore[arg-type]
        return contexts[-1]

    monkeypatch.setattr(GatedConnection, "add_listener", add_listener)
    monkeypatch.setattr(scheduler, "Context", make_context)
    settings = grid.settings.model_copy(update={"idle_seconds": 0.3})
    running = asyncio.create_task(scheduler.run(settings))
    yield contexts
    running.cancel()
    await asyncio.wait({running})


async def test_a_quiet_grid_finds_a_job_and_its_end_without_any_notification(
    grid: ProcessGrid, deaf: list[Context]
) -> None:
    grid.start_worker()
    for _ in range(2):
        await until(lambda: deaf and deaf[0].quiet.is_on)  # most loops rest now, for QUIET_SECONDS
        job_id = await grid.submit()
        await grid.assert_right(job_id)
        waited = await grid.database.fetchrow(_WAITED, job_id)
        assert max(waited) < QUIET_SECONDS / 2
