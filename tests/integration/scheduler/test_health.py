"""A scheduler's probes: one whose loop hangs in the database fails, one whose database is away is not ready."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from services.platform.database import Database
from services.platform.settings import Settings
from services.scheduler import __main__ as scheduler
from tests.conftest import free_port
from tests.until import until


@pytest.fixture
async def probes(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Of a running scheduler, one of whose steps may take a second."""
    port = free_port()
    limits = {"health_port": port, "hung_seconds": 1.0}
    running = asyncio.create_task(scheduler.run(settings.model_copy(update=limits)))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as client:
        await until(lambda: answers(client, "/readyz", 200))
        yield client
    running.cancel()
    await asyncio.wait({running})


async def answers(client: httpx.AsyncClient, path: str, status: int) -> Any:
    """What it says, once it answers with that status."""
    try:
        response = await client.get(path)
    except httpx.ConnectError:
        return None
    return response.text if response.status_code == status else None


async def test_a_loop_that_hangs_in_a_statement_fails_until_it_goes_on(
    probes: httpx.AsyncClient, database: Database
) -> None:
    async with database.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE schedules")
        said = await until(lambda: answers(probes, "/healthz", 503))
        assert "clock" in said and "dispatch" not in said
    await until(lambda: answers(probes, "/healthz", 200))
    await until(lambda: answers(probes, "/readyz", 200))


async def test_metrics_tell_of_each_loop_when_it_last_succeeded(probes: httpx.AsyncClient) -> None:
    loops = {
        loop.name
        for loop in scheduler.make_loops(
            Settings(), scheduler.Merger(), scheduler.Deliverer(), scheduler.Teller(), scheduler.Listeners()
        )
    }

    async def all_told() -> bool:
        text = (await probes.get("/metrics")).text
        return all(f'piecework_loop_last_success_timestamp_seconds{{loop="{loop}"}}' in text for loop in loops)

    await until(all_told)
    text = (await probes.get("/metrics")).text
    for name in ("piecework_loop_step_duration_seconds_count", "piecework_database_acquire_duration_seconds_count",
                 'piecework_database_connections{state="busy"}', "process_cpu_seconds_total"):  # fmt: skip
        assert name in text
