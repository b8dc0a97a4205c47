"""Many workers behind PgBouncer share few sessions, and these plan and end as the workers' statements need it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.engine.logins import LOGINS
from services.engine.migrate import migrate
from services.platform.aws import Aws
from services.platform.database import POOLED_PLANNER, Database, connect_alone, connect_database, time_limits
from services.platform.settings import Settings, WorkerSettings
from tests.aws.pgbouncer import PgBouncer, unpack
from tests.grid import ProcessGrid
from tests.roles import as_role
from tests.until import until

SESSIONS = 2
WORKERS = 2


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return unpack(tmp_path_factory.mktemp("pgbouncer"))


@pytest.fixture
def database_url(own_database_url: str) -> str:
    return own_database_url


@pytest.fixture
def pooler(program: list[str], postgres: EmbeddedPostgres, database_url: str, tmp_path: Path) -> Iterator[PgBouncer]:
    place = urlsplit(database_url)
    for directory in (tmp_path, *list(tmp_path.parents)[:3], *list(Path(program[0]).parents)[:8]):
        if directory != Path("/") and directory.stat().st_uid == 0:
            directory.chmod(directory.stat().st_mode | 0o011)  # the server's user passes
    users = {LOGINS["worker"]: place.password or ""}
    pooler = PgBouncer(program, tmp_path, parse_qs(place.query)["host"][0], users, SESSIONS)
    pooler.start(postgres.identity)
    yield pooler
    pooler.stop()


@pytest.fixture
def pooled(pooler: PgBouncer, database_url: str) -> dict[str, Any]:
    """A worker's settings."""
    place = urlsplit(as_role(database_url, "worker"))
    host = f"{place.netloc.rpartition('@')[0]}@127.0.0.1:{pooler.port}"
    return {"database_url": f"postgresql://{host}{place.path}", "database_pooler": True}


@pytest.fixture
async def prepared(database_url: str, pooled: dict[str, Any]) -> None:
    """The schema is migrated again, now that the workers' users are there; PgBouncer takes connections."""
    await migrate(database_url)
    await until(lambda: is_open(pooled))


async def is_open(pooled: dict[str, Any]) -> bool:
    await (await connect_alone(WorkerSettings(**pooled))).close()
    return True


@pytest.mark.usefixtures("prepared")
async def test_sessions_of_the_pooler_have_what_statements_need(pooled: dict[str, Any]) -> None:
    pool = await connect_database(WorkerSettings(**pooled))

    rows = await pool.fetch(
        "SELECT name, setting FROM pg_settings WHERE name = ANY($1)", [*POOLED_PLANNER, *time_limits()]
    )

    assert dict(map(tuple, rows)) == POOLED_PLANNER | time_limits()
    await pool.close()


@pytest.mark.usefixtures("prepared")
async def test_the_same_url_without_the_setting_is_refused_by_pgbouncer(pooled: dict[str, Any]) -> None:
    with pytest.raises(asyncpg.PostgresError, match="unsupported startup parameter"):
        await connect_alone(pooled["database_url"])


@pytest.fixture
async def grid(settings: Settings, database: Database, aws: Aws, tmp_path: Path) -> AsyncIterator[ProcessGrid]:
    grid = ProcessGrid(settings, database, aws, tmp_path)
    await grid.prepare()
    yield grid
    await asyncio.to_thread(grid.stop)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("prepared")
async def test_workers_behind_a_pooler_run_a_job_over_few_sessions(
    grid: ProcessGrid, pooled: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIECEWORK_ISOLATION", "process")
    grid.start_scheduler()
    for _ in range(WORKERS):
        grid.start_worker(**pooled)

    assert (await grid.ended(await grid.submit_small(part_bytes=4_000)))["state"] == "succeeded"

    workers = "SELECT count(*) FROM workers WHERE state = 'active'"
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND datname = current_database()"
    assert await grid.database.fetchval(workers) == WORKERS
    assert 1 <= await grid.database.fetchval(sessions, LOGINS["worker"]) <= SESSIONS
