"""What stands still, or falls silent, without dying: the others go on, and it goes on itself when it is back."""

import signal
from collections.abc import AsyncIterator
from uuid import UUID

import psutil
import pytest

from services.engine.logins import LOGINS
from services.platform.database import Database
from tests.grid import Gate, ProcessGrid
from tests.invariants import TERMINAL
from tests.storm.database_proxy import DatabaseProxy
from tests.until import until

SECONDS_MAX = 15.0  # in which work goes on

pytestmark = pytest.mark.timeout(300)  # the machine may be busy


@pytest.fixture
async def impatient(grid: ProcessGrid) -> ProcessGrid:
    """Its services wait for the database a fifth of the usual time; leases are no matter here."""
    grid.settings = grid.settings.model_copy(
        update={"database_seconds": 2.0, "lease_seconds": 60.0, "heartbeat_seconds": 1.0}
    )
    return grid


@pytest.fixture
async def proxy(impatient: ProcessGrid) -> AsyncIterator[DatabaseProxy]:
    """In front of the database."""
    proxy = DatabaseProxy(impatient.settings.database_url)
    await proxy.start()
    yield proxy
    proxy.stop()


_SLOW_BUNDLES = """
    CREATE OR REPLACE FUNCTION slow_bundles() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN NULL; END $$"""


async def attempts_end(database: Database, job_id: UUID, seconds_max: float = SECONDS_MAX) -> None:
    """Wait until some more attempts of the job have ended."""
    count = "SELECT count(*) FROM attempts WHERE job_id = $1"
    before = await database.fetchval(count, job_id)

    async def ended() -> bool:
        return bool(await database.fetchval(count, job_id) >= before + 3)

    await until(ended, seconds_max)


async def ended_right(grid: ProcessGrid, job_id: UUID) -> None:
    async def over() -> bool:
        return bool((await grid.job(job_id))["state"] in TERMINAL)

    await until(over, 200)
    await grid.assert_right(job_id)


async def test_a_scheduler_frozen_within_a_dispatch_does_not_stop_its_pool(impatient: ProcessGrid) -> None:
    grid = impatient
    await grid.database.execute(_SLOW_BUNDLES.format("PERFORM pg_sleep(1);"))
    await grid.database.execute(
        "CREATE TRIGGER slow BEFORE INSERT ON bundles FOR EACH STATEMENT EXECUTE FUNCTION slow_bundles()"
    )
    of_this = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    grid.start_worker()
    hung = grid.start_scheduler()
    job_id = await grid.submit()
    await until(lambda: grid.database.fetchval(f"{of_this} AND wait_event = 'PgSleep'"))
    hung.send_signal(signal.SIGSTOP)
    try:
        await until(lambda: grid.database.fetchval(f"{of_this} AND state = 'idle in transaction'"))
        await grid.database.execute(_SLOW_BUNDLES.format(""))

        grid.start_scheduler()

        await attempts_end(grid.database, job_id, seconds_max=60)  # until it has started
    finally:
        hung.send_signal(signal.SIGCONT)
    await ended_right(grid, job_id)
    assert hung.poll() is None


async def test_a_scheduler_whose_sessions_stand_still_in_postgres_goes_on(impatient: ProcessGrid, gate: Gate) -> None:
    grid = impatient
    idle = """
        SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND usename = $1 AND state = 'idle' AND pid <> ALL($2::integer[])"""
    grid.start_scheduler()
    grid.start_worker()
    job_id = await grid.submit(gate=gate.path)
    await gate.task_waits()
    stopped: list[psutil.Process] = []
    try:
        for row in await grid.database.fetch(idle, LOGINS["scheduler"], []):
            backend = psutil.Process(row["pid"])
            backend.suspend()
            stopped.append(backend)
        still = {row["pid"] for row in await grid.database.fetch(idle, LOGINS["scheduler"], [])}
        for backend in stopped:
            if backend.pid not in still:  # it may hold what all need
                backend.resume()
        assert still & {backend.pid for backend in stopped}
        gate.open()

        await attempts_end(grid.database, job_id)
        await ended_right(grid, job_id)
    finally:
        for backend in stopped:
            if backend.is_running():
                backend.resume()


@pytest.mark.parametrize("silent", ["scheduler", "worker"])
async def test_a_service_whose_connections_fall_silent_goes_on(
    impatient: ProcessGrid, proxy: DatabaseProxy, gate: Gate, silent: str
) -> None:
    grid = impatient
    direct = grid.settings
    behind = direct.model_copy(update={"database_url": proxy.url})
    grid.settings = behind if silent == "scheduler" else direct
    grid.start_scheduler()
    grid.settings = behind if silent == "worker" else direct
    grid.start_worker()
    grid.settings = direct
    job_id = await grid.submit(gate=gate.path)
    await gate.task_waits()
    assert proxy.silence() > 0
    gate.open()

    await attempts_end(grid.database, job_id)
    await ended_right(grid, job_id)

    proxy.silence()
    proxy.frozen = True
    for process in grid.processes:
        process.send_signal(signal.SIGTERM)
    await until(lambda: all(process.poll() is not None for process in grid.processes), 2 * SECONDS_MAX)
    assert [process.returncode for process in grid.processes] == [0, 0]
