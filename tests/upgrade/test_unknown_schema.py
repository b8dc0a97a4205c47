"""Services that meet a schema they do not work on: each says so, waits, and goes on when it is migrated."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.api import main as api
from services.engine.migrate import migrate
from services.engine.schema import NEEDED_REVISION
from services.platform.database import Database
from services.platform.settings import Settings
from services.scheduler import __main__ as scheduler
from services.stats import main as stats
from tests.forks import Fork
from tests.until import until
from tests.upgrade.schema import go_back

COMMAND = "python -m services.engine.migrate"


@pytest.fixture
async def behind(settings: Settings) -> None:
    """The schema lacks what the migrations after 0002 have brought."""
    await go_back(settings.database_url, "0002")


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        client.headers["authorization"] = "Bearer pw_bootstrap"
        yield client


@pytest.mark.usefixtures("behind")
@pytest.mark.parametrize("create_app", [api.create_app, stats.create_app], ids=["api", "stats"])
async def test_readyz_names_both_revisions_and_the_command_until_the_schema_is_migrated(
    create_app: Callable[[Settings], FastAPI], settings: Settings
) -> None:
    async with served(create_app(settings)) as client:
        response = await client.get("/readyz")
        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert int(response.headers["retry-after"]) > 0
        problem = response.json()
        assert problem["type"] == "urn:piecework:unknown-schema"
        assert all(part in problem["detail"] for part in ("0002", NEEDED_REVISION, COMMAND))
        assert (await client.get("/healthz")).status_code == 200

        await migrate(settings.database_url)

        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    "create_app, path", [(api.create_app, "/v1/jobs"), (stats.create_app, "/metrics")], ids=["api", "stats"]
)
async def test_what_the_schema_lacks_is_not_taken_for_a_bug(
    create_app: Callable[[Settings], FastAPI], path: str, settings: Settings, database: Database
) -> None:
    async with served(create_app(settings.model_copy(update={"bootstrap_api_key": "pw_bootstrap"}))) as client:

        async def answers() -> bool:
            return (await client.get(path)).status_code == 200

        await until(answers, 20)
        for statement in (
            "ALTER TABLE jobs RENAME COLUMN state TO condition",
            "ALTER TABLE jobs RENAME TO works",
        ):
            await database.execute(statement)

            response = await client.get(path)

            assert response.status_code == 503
            assert "schema" in response.json()["detail"] and "/readyz" in response.json()["detail"]


@contextmanager
def process(settings: Settings, module: str, directory: Path) -> Iterator[Fork]:
    values = settings.model_dump(exclude_none=True)
    values |= {"scratch": directory / "scratch", "cache": directory / "cache"}
    environment = os.environ | {f"PIECEWORK_{name.upper()}": str(value) for name, value in values.items()}
    started = Fork(module, env=environment, log=directory / "log")
    try:
        yield started
    finally:
        started.kill()


async def looks(database: Database, times: int) -> None:
    """Wait until a service has asked for the revision this many times."""
    seen: set[Any] = set()
    asked = """
        SELECT query_start FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE '%version_num%' AND pid <> pg_backend_pid()"""

    async def enough() -> bool:
        seen.update(row["query_start"] for row in await database.fetch(asked))
        return len(seen) >= times

    await until(enough, 20)


@pytest.mark.usefixtures("behind")
@pytest.mark.parametrize(
    "module, goes_on",
    [("services.scheduler", ["scheduler started"]), ("services.worker", ["works again", "registered"])],
)
async def test_a_scheduler_and_a_worker_say_it_in_one_line_and_begin_when_it_is_migrated(
    module: str, goes_on: list[str], settings: Settings, database: Database, tmp_path: Path
) -> None:
    await database.execute(
        "INSERT INTO pools (name, queue_url, dead_letter_url, slots) VALUES ('default', 'q', 'd', 1)"
    )
    with process(settings, module, tmp_path) as started:
        waiting = json.loads(await started.prints(0))
        await looks(database, 3)
        await migrate(settings.database_url)
        lines = [json.loads(await started.prints(number)) for number, _ in enumerate(goes_on, 1)]
        started.terminate()
        code = await asyncio.wait_for(started.ended(), 20)

    assert all(part in waiting["error"] for part in ("0002", NEEDED_REVISION, COMMAND))
    assert waiting["level"] == "warning"
    assert [line["event"] for line in lines] == goes_on
    assert code == 0


@pytest.mark.usefixtures("behind")
async def test_a_scheduler_that_waits_can_be_stopped(settings: Settings, database: Database) -> None:
    running = asyncio.create_task(scheduler.run(settings))
    await looks(database, 1)

    running.cancel()

    await asyncio.wait_for(asyncio.wait({running}), 20)
    assert running.cancelled()
