"""Tables full of tasks become partitions while they are in use: no row is moved, and nobody's rights change."""

import asyncio
import time
from uuid import UUID

import asyncpg
import pytest

from services.engine import migrate as migrating
from services.engine.migrate import migrate
from services.platform.database import Database, connect_database, new_id
from services.platform.settings import Settings
from tests.integration.engine.play import Play, add_pool, add_processor
from tests.roles import as_role
from tests.upgrade.schema import go_back

TABLES = ("attempts", "tasks", "stage_counters", "stage_stats")
BEFORE = "0011"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrating, "_PAUSE_SECONDS", 0.05)
    monkeypatch.setitem(migrating._TIMEOUTS, "lock_timeout", "100ms")


@pytest.fixture
async def grid(own_database_url: str) -> tuple[Play, UUID]:
    """A grid of the revision before, with a job of which half is done."""
    database = await connect_database(own_database_url)
    play = Play(database, Settings())
    await add_pool(database, "default")
    await add_processor(database, "noop", builtin="noop")
    job_id = await play.submit()
    await play.plan(job_id, 20)
    await play.run(await play.register(), job_id, tasks=10)
    await go_back(own_database_url, BEFORE)
    return play, job_id


async def rows(database: Database) -> dict[str, list[dict[str, object]]]:
    return {table: [dict(row) for row in await database.fetch(f"TABLE {table} ORDER BY 1, 2, 3")] for table in TABLES}


async def test_what_is_there_becomes_the_first_partition_and_is_not_copied(
    grid: tuple[Play, UUID], own_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = grid[0].database
    before = await rows(database)
    files = [await database.fetchval(f"SELECT pg_relation_filenode('{table}')") for table in TABLES[1:]]

    await database.execute("GRANT SELECT, UPDATE ON tasks TO piecework_worker")

    async def no_rights_given(connection: object) -> None:
        """As if this process had died before it: rights are those of before."""

    monkeypatch.setattr(migrating, "set_up_roles", no_rights_given)
    await migrate(own_database_url)

    assert len(before["tasks"]) == 20
    after = await rows(database)
    assert {
        table: [{name: row[name] for name in old} for row, old in zip(after[table], before[table], strict=True)]
        for table in TABLES
    } == before
    assert files == [await database.fetchval(f"SELECT pg_relation_filenode('{table}_first')") for table in TABLES[1:]]
    bound = await database.fetchval("SELECT until_job FROM job_partitions WHERE month = 'first' LIMIT 1")
    assert await database.fetchval("SELECT first_job_at(now() + interval '28 days')") < bound
    worker = await asyncpg.connect(as_role(own_database_url, "worker"))
    assert await worker.fetchval("SELECT count(*) FROM tasks") == 20
    await worker.execute("UPDATE tasks SET worker_id = worker_id")
    await worker.close()
    await database.close()


async def test_a_job_goes_on_through_it_and_ends(grid: tuple[Play, UUID], own_database_url: str) -> None:
    play, job_id = grid
    worker_id = new_id()
    await play.database.execute(
        "INSERT INTO workers (worker_id, pool, hostname, pid, slots) VALUES ($1, 'default', 'node', 1, 2)", worker_id
    )

    async def work() -> None:
        for _ in range(10):
            await play.database.execute("UPDATE tasks SET worker_id = $1 WHERE state = 'running'", worker_id)
            await asyncio.sleep(0)

    await asyncio.gather(migrate(own_database_url), work())

    await play.run_all(job_id)
    states = await play.database.fetch("SELECT state, count(*) AS n FROM tasks GROUP BY state")
    assert {row["state"]: row["n"] for row in states} == {"running": 10, "succeeded": 10}
    await play.database.close()


async def test_a_dump_delays_it_and_nobody_else(grid: tuple[Play, UUID], own_database_url: str) -> None:
    database = grid[0].database
    lines: list[str] = []
    dump = await asyncpg.connect(own_database_url)
    reading = dump.transaction()
    await reading.start()
    await dump.fetch("SELECT FROM tasks")
    migration = asyncio.create_task(migrate(own_database_url, lines.append))

    async def waited() -> bool:
        return sum("in use" in line for line in lines) > 2

    longest = 0.0
    while not await waited():
        started = time.monotonic()
        await database.execute("UPDATE tasks SET worker_id = worker_id")
        longest = max(longest, time.monotonic() - started)
        await asyncio.sleep(0.005)
    await reading.rollback()
    await dump.close()
    await migration

    assert longest < 2, "the lock's time-out and what a busy machine adds"
    assert await database.fetchval("SELECT count(*) FROM job_partitions WHERE of_table = 'tasks'") == 3
    await database.close()


async def test_a_partition_that_is_made_while_an_index_is_built_has_one_of_it(own_database_url: str) -> None:
    """As the index is on the whole, and not on its partitions yet: Postgres gives the new one its own at once."""
    database = await connect_database(own_database_url)
    await go_back(own_database_url, "0040")
    await database.execute(
        "CREATE INDEX attempts_failed ON ONLY attempts (job_id, stage, index) WHERE outcome <> 'succeeded'"
    )
    await database.execute("SELECT make_partition('attempts', '2098-05-01')")

    await migrate(own_database_url)

    indexes = await database.fetch(
        "SELECT x.indrelid::regclass::text AS partition, i.inhparent::regclass::text AS of_whole FROM pg_index AS x "
        "LEFT JOIN pg_inherits AS i ON i.inhrelid = x.indexrelid WHERE x.indisvalid AND x.indrelid IN "
        "(SELECT inhrelid FROM pg_inherits WHERE inhparent = 'attempts'::regclass) "
        "AND pg_get_indexdef(x.indexrelid) LIKE '%outcome <> %'"
    )
    partitions = await database.fetch("SELECT inhrelid::regclass::text AS name FROM pg_inherits "
                                      "WHERE inhparent = 'attempts'::regclass")  # fmt: skip
    assert sorted(row["partition"] for row in indexes) == sorted(row["name"] for row in partitions)
    assert {row["of_whole"] for row in indexes} == {"attempts_failed"}
    assert await database.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = 'attempts_failed'::regclass")
    await database.close()
