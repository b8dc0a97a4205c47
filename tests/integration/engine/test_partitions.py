"""The months of jobs: their partitions are made ahead, and dropped when nobody needs what is in them."""

from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from services.engine.months import ALL, months_of
from services.platform.database import Database, connect_database, new_id
from services.platform.settings import Settings
from tests.integration.engine.play import Play, set_up

TABLES = ("attempts", "tasks", "stage_counters", "stage_stats")
OLD = ("2020_01", "2020_02", "2020_03")


@pytest.fixture
async def database(own_database_url: str) -> AsyncIterator[Database]:
    """Of a grid that has been at work since 2020."""
    database = await connect_database(own_database_url)
    for table in TABLES:
        await database.execute(f"ALTER TABLE {table} DETACH PARTITION {table}_first")
        await database.execute(
            f"ALTER TABLE {table} ATTACH PARTITION {table}_first FOR VALUES FROM (MINVALUE) "
            "TO ('016f5e66-e800-0000-0000-000000000000')"
        )
        for month in OLD:
            await database.execute("SELECT make_partition($1, to_timestamp($2, 'YYYY_MM'))", table, month)
    yield database
    await database.close()


@pytest.fixture
async def play(database: Database) -> Play:
    return await set_up(database, Settings())


async def partitions(database: Database) -> set[str]:
    return {row["partition"] for row in await database.fetch("SELECT partition FROM job_partitions")}


async def dropped(database: Database) -> list[str]:
    names = []
    while name := await database.fetchval("SELECT drop_partitions()"):
        names.append(name)
    return names


async def job_of(database: Database, play: Play, month: str) -> UUID:
    """A job that was submitted then, with a task that has ended and is not rolled up."""
    job_id = await play.submit()
    await play.plan(job_id, 1)
    await play.run_all(job_id)
    old_id: UUID = await database.fetchval("SELECT first_job_at(to_timestamp($1, 'YYYY_MM') + interval '1 day')", month)
    await database.execute("INSERT INTO jobs SELECT $2, name, spec, state FROM jobs WHERE job_id = $1", job_id, old_id)
    for table in TABLES:
        await database.execute(f"UPDATE {table} SET job_id = $2 WHERE job_id = $1", job_id, old_id)
    await database.execute("UPDATE stages SET job_id = $2 WHERE job_id = $1", job_id, old_id)
    await database.execute("DELETE FROM jobs WHERE job_id = $1", job_id)
    return old_id


async def roll_up(database: Database) -> None:
    await database.execute("UPDATE stats_watermark SET txid = pg_current_xact_id()")


async def test_months_without_jobs_are_dropped_and_those_to_come_stay(database: Database) -> None:
    before = await partitions(database)

    gone = await dropped(database)

    assert set(gone) == {f"{table}_{month}" for table in TABLES for month in (*OLD, "first")}
    assert await partitions(database) == before - set(gone)
    assert await dropped(database) == []


async def test_a_month_stays_as_long_as_one_of_its_jobs_does(database: Database, play: Play) -> None:
    job_id = await job_of(database, play, "2020_02")
    await roll_up(database)

    assert not any(name.endswith("2020_02") for name in await dropped(database))
    assert await database.fetchval("SELECT count(*) FROM tasks_2020_02") == 1

    await database.execute("DELETE FROM jobs WHERE job_id = $1", job_id)
    assert await dropped(database) == [f"{table}_2020_02" for table in TABLES]
    assert await database.fetchval("SELECT count(*) FROM tasks") == 0


async def test_attempts_are_rolled_up_before_they_go(database: Database, play: Play) -> None:
    job_id = await job_of(database, play, "2020_02")
    await database.execute("DELETE FROM jobs WHERE job_id = $1", job_id)

    assert not any(name.endswith("2020_02") for name in await dropped(database))

    await roll_up(database)
    assert await dropped(database) == [f"{table}_2020_02" for table in TABLES]


async def test_who_reads_for_long_keeps_nobody_from_working(
    database: Database, play: Play, own_database_url: str
) -> None:
    newest = max(name for name in await partitions(database) if name.startswith("attempts_20"))
    await database.execute(f"DROP TABLE {newest}")
    dump = await asyncpg.connect(own_database_url)
    reading = dump.transaction()
    await reading.start()
    for table in TABLES:
        await dump.fetch(f"SELECT FROM {table}")

    assert await database.fetchval("SELECT make_partitions()") is False
    assert await dropped(database) == []
    job_id = await play.submit()
    await play.plan(job_id, 2)
    await play.run_all(job_id)

    assert newest not in await partitions(database)
    await reading.rollback()
    await dump.close()
    assert await database.fetchval("SELECT make_partitions()") is True
    assert newest in await partitions(database)


async def test_a_job_of_a_clock_years_ahead_runs_and_no_months_are_lacking_for_it(
    database: Database, play: Play
) -> None:
    ahead = UUID(int=new_id().int + (10 * 366 * 86_400_000 << 80))
    await database.execute(
        "INSERT INTO tasks (job_id, stage, index, state, input) VALUES ($1, 0, 0, 'succeeded', '{}')", ahead
    )

    assert await database.fetchval("SELECT make_partitions()") is True
    assert await database.fetchval("SELECT count(*) FROM tasks_default") == 1


async def test_the_bounds_that_a_name_tells_are_those_of_the_partition(database: Database) -> None:
    parts = await database.fetch(
        "SELECT month, first_job, until_job, pg_get_expr(c.relpartbound, c.oid) AS bound "
        "FROM job_partitions AS p JOIN pg_class AS c ON c.oid = p.partition::regclass"
    )
    assert {part["month"] for part in parts} > {"first", *OLD}
    for part in parts:
        first = "MINVALUE" if part["month"] == "first" else f"'{part['first_job']}'"
        assert part["bound"] == f"FOR VALUES FROM ({first}) TO ('{part['until_job']}')"


async def test_the_months_of_jobs_are_their_partitions(database: Database) -> None:
    months = await database.fetch("SELECT * FROM job_partitions WHERE of_table = 'tasks' AND month <> 'first'")
    assert len(months) >= 4
    for month in months:
        last = UUID(int=month["until_job"].int - 1)
        (first_job, *_), (until_job, *_) = months_of([last, month["first_job"]])
        assert (first_job, until_job) == (month["first_job"], month["until_job"])
    now, later = months[-2]["first_job"], months[-1]["first_job"]
    assert [bounds[0] for bounds in months_of([later, now])] == [now, months[-1]["until_job"]]
    assert months_of([UUID(int=2**128 - 1)]) == ALL
