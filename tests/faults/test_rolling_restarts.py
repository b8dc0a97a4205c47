"""A new release is rolled out twice, one process after the other, while users go on submitting jobs."""

import asyncio
import itertools
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import UUID

import httpx
import pytest

from tests.conftest import free_port
from tests.forks import Fork
from tests.grid import ProcessGrid
from tests.invariants import assert_kept, rows_of
from tests.until import until

LEASE_SECONDS = 10.0
KEY = "a key of the rolling restarts' own"
TASKS = 8
STARTED_SECONDS = 150.0  # all processes at once, on a machine that may be busy

_LIVE = "SELECT count(*) FROM workers WHERE state = 'active'"
_STANDSTILL = """
    SELECT max(gap) FROM (
        SELECT finished_at - lag(finished_at) OVER (ORDER BY finished_at) AS gap FROM attempts
    ) AS gaps"""


class Api:
    """Processes of one service that listen on ports of their own, as behind a load balancer."""

    def __init__(self, grid: ProcessGrid, service: str) -> None:
        self._grid = grid
        self._service = service
        self.url = f"http://127.0.0.1:{free_port()}"

    def start(self) -> Fork:
        address = ["--host", "127.0.0.1", "--port", self.url.rpartition(":")[2], "--timeout-graceful-shutdown", "3"]
        app = f"services.{self._service}.main:app"
        return self._grid.start("-m", "uvicorn", app, *address, bootstrap_api_key=KEY)

    async def is_ready(self) -> bool:
        async with httpx.AsyncClient(base_url=self.url) as client:
            with suppress(httpx.HTTPError):
                return (await client.get("/readyz")).status_code == 200
        return False


class User:
    """Submits jobs until told to stop, each once, to whichever API answers."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = itertools.cycle(urls)
        self.job_ids: list[UUID] = []
        self.has_enough = asyncio.Event()

    async def submit_jobs(self) -> None:
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}) as client:
            while not self.has_enough.is_set():
                self.job_ids.append(await self._submit(client, number=len(self.job_ids)))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.has_enough.wait(), 0.5)

    async def _submit(self, client: httpx.AsyncClient, number: int) -> UUID:
        spec = {
            "name": f"job-{number}",
            "input": {"type": "range", "count": TASKS},
            "stages": [{"processor": "value", "params": {"seconds": 0.05}}],
        }

        async def accepted() -> UUID | None:
            with suppress(httpx.TransportError):
                answer = await client.post(
                    f"{next(self._urls)}/v1/jobs", json=spec, headers={"Idempotency-Key": f"{number}"}
                )
                if answer.status_code != 503:
                    assert answer.status_code == 201, answer.text
                    return UUID(answer.json()["job_id"])
            return None

        return UUID(str(await until(accepted)))


@pytest.mark.timeout(400)  # fourteen processes start, one after the other
async def test_rolling_restarts_lose_nothing_and_stop_the_grid_for_less_than_a_lease(grid: ProcessGrid) -> None:
    grid.settings = grid.settings.model_copy(update={"lease_seconds": LEASE_SECONDS, "heartbeat_seconds": 1.0})
    apis, stats = [Api(grid, "api"), Api(grid, "api")], Api(grid, "stats")

    async def two_live() -> bool:
        return await grid.database.fetchval(_LIVE) == 2

    async def started() -> bool:
        return True

    services: list[tuple[Callable[[], Fork], Callable[[], Awaitable[bool]]]] = [
        *((api.start, api.is_ready) for api in (*apis, stats)),
        *((grid.start_scheduler, started) for _ in range(2)),
        *((grid.start_worker, two_live) for _ in range(2)),
    ]
    running = [start() for start, _ in services]
    for _, is_ready in services:
        await until(is_ready, STARTED_SECONDS)
    await _register(apis[0].url)
    user = User([api.url for api in apis])
    submitting = asyncio.create_task(user.submit_jobs())
    await until(lambda: len(user.job_ids) >= 3 or submitting.done())

    for number, (start, is_ready) in [*enumerate(services)] * 2:
        running[number].terminate()
        ended = await asyncio.to_thread(running[number].wait, 15)
        assert ended in (0, -signal.SIGTERM), running[number].args  # uvicorn ends by the signal that it was sent
        running[number] = start()
        await until(is_ready, STARTED_SECONDS)
    user.has_enough.set()
    await submitting

    jobs = [await grid.ended(job_id) for job_id in user.job_ids]
    assert {(job["state"], job["name"]) for job in jobs} == {("succeeded", f"job-{n}") for n in range(len(jobs))}
    assert await grid.database.fetchval("SELECT count(*) FROM jobs") == len(jobs)
    for job in jobs:
        rows = await rows_of(grid.database, job["job_id"])
        assert_kept(rows)
        assert {task["state"] for task in rows.tasks.values()} == {"succeeded"}
    standstill = await grid.database.fetchval(_STANDSTILL)
    assert standstill.total_seconds() < LEASE_SECONDS


async def _register(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {KEY}"}) as client:
        spec = {"callable": "storm:value", "share_children": True, "idempotent": True}
        (await client.post("/v1/processors", json={"name": "value", **spec})).raise_for_status()
