"""A database that crashes and comes back finds every service waiting for it."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.engine.migrate import migrate
from services.platform.aws import Aws
from services.platform.database import connect_database
from services.platform.settings import Settings
from tests.grid import Gate, ProcessGrid
from tests.servers import spare_the_disk


@pytest.fixture
async def crashing(settings: Settings, aws: Aws, tmp_path: Path) -> AsyncIterator[tuple[ProcessGrid, EmbeddedPostgres]]:
    """A grid on a server of its own, which the test may kill."""
    with tempfile.TemporaryDirectory(prefix="piecework-test-", ignore_cleanup_errors=True) as directory:
        server = EmbeddedPostgres(Path(directory) / "data")
        server.start()
        url = await server.create_database("piecework")
        await migrate(url)
        await spare_the_disk(server)
        quick = {"database_url": url, "lease_seconds": 4.0, "heartbeat_seconds": 0.2, "resend_seconds": 1.0}
        database = await connect_database(url)
        grid = ProcessGrid(settings.model_copy(update=quick), database, aws, tmp_path)
        await grid.prepare()
        yield grid, server
        grid.stop()
        database.terminate()
        server.stop()


async def test_a_database_killed_in_mid_job_loses_nothing(
    crashing: tuple[ProcessGrid, EmbeddedPostgres], gate: Gate
) -> None:
    grid, server = crashing
    grid.start_scheduler()
    grid.start_worker()
    job_id = await grid.submit(gate=gate.path)
    await gate.task_waits()

    server.kill()
    gate.open()  # tasks end while there is no database to tell
    server.start()

    await grid.assert_right(job_id)


async def test_services_started_before_their_database_wait_for_it(
    crashing: tuple[ProcessGrid, EmbeddedPostgres],
) -> None:
    grid, server = crashing
    server.kill()
    scheduler, worker = grid.start_scheduler(), grid.start_worker()
    server.start()
    await grid.database.expire_connections()

    job_id = await grid.submit()

    await grid.assert_right(job_id)
    assert scheduler.poll() is None
    assert worker.poll() is None
