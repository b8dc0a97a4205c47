"""An outage of the database costs time, not work, however long it lasts and whatever kind it is of."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.engine.migrate import migrate
from services.engine.processors import register_processor
from services.engine.spec import JobSpec, ProcessorSpec
from services.engine.submission import submit_job
from services.platform.aws import Aws
from services.platform.database import connect_database
from services.platform.settings import Settings
from tests.grid import ProcessGrid
from tests.invariants import TERMINAL, assert_invariants
from tests.servers import spare_the_disk
from tests.storm.database_proxy import DatabaseProxy, cut
from tests.until import until

LEASE_SECONDS = 2.0
OUTAGE_SECONDS = 3 * LEASE_SECONDS
TASKS = 2  # as many as a worker has slots


@dataclass
class Stand:
    """A grid on a server of its own; its workers come through a proxy."""

    grid: ProcessGrid
    server: EmbeddedPostgres
    proxy: DatabaseProxy
    gate: Path

    async def start(self) -> None:
        """A scheduler, and a worker that runs the job's tasks until the gate is open."""
        self.grid.start_scheduler()
        self.start_worker()
        wait = f"touch {self.gate}/$$; until [ -e {self.gate}/open ]; do sleep 0.05; done"
        spec = JobSpec.model_validate({"input": {"type": "range", "count": TASKS}, "stages": [{"processor": "wait"}]})
        async with self.grid.database.acquire() as connection, connection.transaction():
            await register_processor(connection, "wait", ProcessorSpec(command=["sh", "-c", wait]))
            self.job_id: UUID = await submit_job(connection, spec, settings=self.grid.settings)
        await until(lambda: self.runs() == TASKS)

    def start_worker(self, *, through_proxy: bool = True) -> None:
        url = self.proxy.url if through_proxy else self.grid.settings.database_url
        grid = replace(self.grid, settings=self.grid.settings.model_copy(update={"database_url": url}))
        grid.start("-m", "services.worker", drain_seconds=2)

    def runs(self) -> int:
        """The number of attempts that wait at the gate."""
        return sum(path.name != "open" and psutil.pid_exists(int(path.name)) for path in self.gate.iterdir())

    def began(self) -> int:
        return sum(path.name != "open" for path in self.gate.iterdir())

    async def ended(self) -> None:
        async def terminal() -> bool:
            return (await self.grid.job(self.job_id))["state"] in TERMINAL

        await until(terminal)

    async def attempts(self) -> list[tuple[int, str]]:
        rows = await self.grid.database.fetch(
            "SELECT attempt, outcome FROM attempts WHERE job_id = $1 ORDER BY index, attempt", self.job_id
        )
        return [(row["attempt"], row["outcome"]) for row in rows]


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[EmbeddedPostgres]:
    """One for these tests alone, which stop and kill it; with the migrated database `template` to copy."""
    with tempfile.TemporaryDirectory(prefix="piecework-test-", ignore_cleanup_errors=True) as directory:
        server = EmbeddedPostgres(Path(directory) / "data")
        server.start()
        await spare_the_disk(server)
        await migrate(await server.create_database("template"))
        yield server
        server.stop()


@pytest.fixture
async def stand(server: EmbeddedPostgres, settings: Settings, aws: Aws, tmp_path: Path) -> AsyncIterator[Stand]:
    url = await server.create_database(f"test_{uuid4().hex}", "template")
    quick = {"database_url": url, "lease_seconds": LEASE_SECONDS, "heartbeat_seconds": 0.3, "resend_seconds": 1.0}
    database = await connect_database(url)
    grid = ProcessGrid(settings.model_copy(update=quick), database, aws, tmp_path)
    await grid.prepare()
    proxy = DatabaseProxy(url)
    await proxy.start()
    (tmp_path / "gate").mkdir()
    yield Stand(grid, server, proxy, tmp_path / "gate")
    (tmp_path / "gate" / "open").touch()
    grid.stop()
    proxy.stop()
    database.terminate()


async def silent_server(stand: Stand) -> None:
    """Every process of the server stands still: connections stay, and new ones get no answer."""
    server = psutil.Process(stand.server.pid)
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        await asyncio.sleep(OUTAGE_SECONDS)
    finally:
        for process in reversed(processes):
            with suppress(psutil.NoSuchProcess):
                process.resume()


async def server_down(stand: Stand) -> None:
    """Connections break, and new ones are refused."""
    stand.server.kill()
    await asyncio.sleep(OUTAGE_SECONDS)
    stand.server.start()


async def silent_connections(stand: Stand) -> None:
    """The worker's connections stay silent for good; new ones work."""
    stand.proxy.silence()
    await asyncio.sleep(OUTAGE_SECONDS)


@pytest.mark.parametrize("outage", [silent_server, server_down, silent_connections])
async def test_tasks_that_run_longer_than_an_outage_succeed_at_their_first_attempt(
    stand: Stand, outage: Callable[[Stand], Awaitable[None]]
) -> None:
    await stand.start()

    await outage(stand)
    assert stand.runs() == TASKS
    (stand.gate / "open").touch()

    await stand.ended()
    assert await stand.attempts() == [(1, "succeeded")] * TASKS
    assert stand.began() == TASKS
    assert await stand.grid.database.fetchval("SELECT count(*) FROM workers") == 1
    await assert_invariants(stand.grid.database, stand.job_id)


@pytest.mark.parametrize("outage", [silent_server, server_down])
async def test_what_ends_in_an_outage_is_reported_after_it(
    stand: Stand, outage: Callable[[Stand], Awaitable[None]]
) -> None:
    await stand.start()

    going = asyncio.create_task(outage(stand))
    await asyncio.sleep(LEASE_SECONDS)
    (stand.gate / "open").touch()
    await until(lambda: stand.runs() == 0)
    assert not going.done()
    await going

    await stand.ended()
    assert await stand.attempts() == [(1, "succeeded")] * TASKS
    await assert_invariants(stand.grid.database, stand.job_id)


async def test_a_scheduler_that_stood_still_alone_reaps_nobody(stand: Stand) -> None:
    """Nor does one that has just started after a time without any: workers are given a lease's time to be back."""
    await stand.start()
    (scheduler, *_) = stand.grid.processes
    scheduler.send_signal(signal.SIGSTOP)
    stand.proxy.silence()
    stand.proxy.refuse = True
    await asyncio.sleep(OUTAGE_SECONDS)
    stand.proxy.refuse = False
    scheduler.send_signal(signal.SIGCONT)
    stand.grid.start_scheduler()

    await asyncio.sleep(LEASE_SECONDS)
    (stand.gate / "open").touch()
    await stand.ended()
    assert await stand.attempts() == [(1, "succeeded")] * TASKS


async def test_a_worker_cut_off_alone_loses_its_tasks_and_finds_out_when_it_is_back(stand: Stand) -> None:
    await stand.start()
    stand.start_worker(through_proxy=False)
    stand.proxy.refuse = True
    cut(stand.proxy.links)

    await until(lambda: stand.began() == 2 * TASKS)  # the others run them
    stand.proxy.refuse = False
    await until(lambda: stand.runs() == TASKS)  # the first attempts are killed
    (stand.gate / "open").touch()

    await stand.ended()
    assert await stand.attempts() == [(1, "lost"), (2, "succeeded")] * TASKS
    await assert_invariants(stand.grid.database, stand.job_id)


async def test_a_worker_told_to_stop_in_an_outage_ends_within_its_grace(stand: Stand) -> None:
    await stand.start()
    (_, worker) = stand.grid.processes
    stand.proxy.silence()
    stand.proxy.frozen = True
    (stand.gate / "open").touch()
    await until(lambda: stand.runs() == 0)

    os.kill(worker.pid, signal.SIGTERM)
    assert await asyncio.to_thread(worker.wait, 40) == 0
