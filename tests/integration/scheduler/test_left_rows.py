"""What expired jobs leave to their month: it is dropped as a whole, or swept if a job of it is kept."""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from services.engine import retention
from services.platform import effects
from services.platform.aws import Aws
from services.platform.database import Database, connect_database, new_id
from services.platform.effects import Effect, Moment
from services.platform.settings import Settings
from services.scheduler.loop import Context
from services.scheduler.loops import maintain, retain
from tests.integration.engine.play import Play

MONTH = "2020_02"
TABLES = ("attempts", "tasks", "stage_counters", "stage_stats")
KEEP_LONG = {"interim": "forever", "results": "forever", "records": "forever"}

# A job's row with another id, as if it had been submitted, and had ended, at another time.
_AT = """
    INSERT INTO jobs SELECT (jsonb_populate_record(j, jsonb_build_object(
        'job_id', $2::uuid, 'created_at', $3::timestamptz, 'started_at', $3::timestamptz,
        'finished_at', $3::timestamptz, 'keep_revision', 0))).* FROM jobs AS j WHERE job_id = $1"""


@pytest.fixture
async def database(own_database_url: str) -> AsyncIterator[Database]:
    """Of a grid that has been at work since 2020."""
    database = await connect_database(own_database_url)
    for table in TABLES:
        await database.execute(f"ALTER TABLE {table} DETACH PARTITION {table}_first")
        await database.execute("SELECT make_partition($1, to_timestamp($2, 'YYYY_MM'))", table, MONTH)
    yield database
    await database.close()


@pytest.fixture
async def other(database: Database, own_database_url: str, aws: Aws, settings: Settings) -> AsyncIterator[Context]:
    """A second scheduler."""
    pool = await connect_database(own_database_url)
    yield Context(pool, aws, settings)
    await pool.close()


async def month_job(context: Context, play: Play, day: int = 1, tasks: int = 2, **job: object) -> UUID:
    """A job of the month that has succeeded."""
    database, made = context.database, await play.submit(**job)
    await play.plan(made, tasks)
    await play.run_all(made)
    await database.execute("UPDATE stages SET state = 'succeeded' WHERE job_id = $1", made)
    await database.execute("UPDATE jobs SET state = 'succeeded', finished_at = now() WHERE job_id = $1", made)
    at = await database.fetchval("SELECT to_timestamp($1, 'YYYY_MM') + $2 * interval '1 day'", MONTH, day)
    first_id: UUID = await database.fetchval("SELECT first_job_at($1)", at)
    job_id = UUID(int=first_id.int + new_id().int % 2**64)
    await database.execute(_AT, made, job_id, at)
    for table in (*TABLES, "stages"):
        await database.execute(f"UPDATE {table} SET job_id = $2 WHERE job_id = $1", made, job_id)
    await database.execute("DELETE FROM jobs WHERE job_id = $1", made)
    return job_id


async def rows(database: Database) -> dict[str, set[UUID]]:
    """The jobs of which each table has rows in the month."""
    found = {}
    for table in TABLES:
        if await database.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{table}_{MONTH}"):
            records = await database.fetch(f"SELECT DISTINCT job_id FROM {table}_{MONTH}")
            found[table] = {record["job_id"] for record in records}
    return found


async def work(*contexts: Context) -> None:
    """Take steps until nothing more is due."""
    while any([await retain.step(context) for context in contexts]):
        pass
    for context in contexts:
        await maintain.step(context)


async def pass_days(database: Database) -> None:
    """What was left was left long ago."""
    await database.execute("UPDATE left_rows SET since = since - interval '36 days', held_until = '-infinity'")


async def test_a_month_whose_jobs_have_all_expired_is_dropped_with_their_rows_in_it(
    context: Context, play: Play
) -> None:
    job_ids = {await month_job(context, play, day) for day in (1, 10, 20)}
    while await retain.step(context):
        pass
    assert await context.database.fetchval("SELECT count(*) FROM jobs") == 0
    left = await rows(context.database)
    assert left["tasks"] == left["attempts"] == left["stage_counters"] == job_ids

    await maintain.step(context)

    assert await rows(context.database) == {}
    assert await context.database.fetchval("SELECT count(*) FROM left_rows") == 0


async def test_a_job_that_is_held_keeps_its_rows_and_what_others_left_is_swept_later(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retain, "ROWS_MAX", 2)
    monkeypatch.setattr(retain, "SLICES_MAX", 1)
    first, held, longer, last = [
        await month_job(context, play, day, tasks=5, **({"keep": KEEP_LONG} if day == 15 else {}))
        for day in (1, 10, 15, 20)
    ]
    await play.order(retention.hold_job, held)
    kept = await context.database.fetch("SELECT * FROM tasks WHERE job_id = ANY($1) ORDER BY job_id", [held, longer])
    assert len(kept) == 10
    await work(context)
    assert (await rows(context.database))["tasks"] == {first, held, longer, last}

    await pass_days(context.database)
    await work(context)

    left = await rows(context.database)
    assert left["tasks"] == left["attempts"] == left["stage_counters"] == {held, longer}
    assert await context.database.fetch("SELECT * FROM tasks ORDER BY job_id") == kept

    await play.order(retention.release_job, held)
    await work(context)
    assert (await rows(context.database))["tasks"] == {held, longer}
    await context.database.execute("UPDATE jobs SET spec = spec - 'keep', keep_revision = 0")
    await work(context)
    assert await rows(context.database) == {}


async def test_a_job_that_a_user_deletes_leaves_no_rows(context: Context, play: Play) -> None:
    await play.order(retention.hold_job, held := await month_job(context, play))
    job_id = await month_job(context, play)
    async with context.database.acquire() as connection, connection.transaction():
        await retention.delete_job(connection, job_id, keep_results=False)
    await work(context)
    assert (await rows(context.database))["tasks"] == {held}
    assert await context.database.fetchval("SELECT count(*) FROM left_rows") == 0


async def test_attempts_that_were_left_are_rolled_up_before_they_go(context: Context, play: Play) -> None:
    job_id = await month_job(context, play)
    await work_until_forgotten(context)
    await context.database.execute("UPDATE stats_watermark SET txid = '3'")  # a stats service is there, and is behind
    await maintain.step(context)
    assert (await rows(context.database))["attempts"] == {job_id}

    await context.database.execute("UPDATE stats_watermark SET txid = pg_current_xact_id()")
    await maintain.step(context)
    assert await rows(context.database) == {}


async def work_until_forgotten(context: Context) -> None:
    while await retain.step(context):
        pass
    assert await context.database.fetchval("SELECT count(*) FROM jobs") == 0


async def test_who_reads_a_month_for_long_keeps_nobody_else_waiting(
    context: Context, play: Play, other: Context
) -> None:
    await month_job(context, play)
    await work_until_forgotten(context)
    waits = []
    async with other.database.acquire() as reader, reader.transaction():
        await reader.execute("SELECT FROM tasks LIMIT 1; SELECT FROM attempts LIMIT 1")
        dropping = asyncio.create_task(maintain.step(context))
        while not dropping.done():
            began = time.monotonic()
            await other.database.fetch("SELECT FROM tasks LIMIT 1")
            waits.append(time.monotonic() - began)
            await asyncio.sleep(0.01)
        await dropping
        assert set(await rows(context.database)) == set(TABLES)
    assert max(waits) < 0.5  # 50 ms, on an idle machine
    await maintain.step(context)
    assert await rows(context.database) == {}


class Death(BaseException):
    """The scheduler dies."""


AFTER_DROP = {"forget_job", "_keep_partitions", "forget_months"}
AFTER_SWEEP = {"claim_sweep", "next_job", "delete_slice", "forget_sums", "advance", "end_sweep"}


async def survives(context: Context, died_after: set[str]) -> bool:
    """Work, but die after the first effect of another name than these; False if it comes to that."""

    def die(moment: Moment, effect: Effect) -> None:
        if moment == "after" and effect.name not in died_after:
            died_after.add(effect.name)
            raise Death

    effects.watch(die)
    try:
        await work(context)
    except Death:
        return False
    finally:
        effects.watch(None)
    return True


@pytest.mark.parametrize("is_held", [False, True])
async def test_a_scheduler_may_die_after_any_effect_beside_another(
    context: Context, other: Context, play: Play, monkeypatch: pytest.MonkeyPatch, is_held: bool
) -> None:
    """It begins the month, dies, and another ends it: nothing that is kept goes, and all else does."""
    monkeypatch.setattr(retain, "HOLD_SECONDS", 0.0)
    monkeypatch.setattr(retain, "SLICES_MAX", 1)
    monkeypatch.setattr(retain, "ROWS_MAX", 1)
    died_after: set[str] = set()
    survived = False
    while not survived:
        held = await month_job(context, play) if is_held else None
        if held is not None:
            await play.order(retention.hold_job, held)
        await month_job(context, play, 10)
        if is_held:
            await work_until_left(other, held)
            await pass_days(other.database)
        survived = await survives(context, died_after)
        await work(context, other)
        found = await rows(other.database)
        assert found == {} if held is None else found["tasks"] == {held}
        if held is not None:
            assert (found["attempts"], found["stage_counters"]) == ({held}, {held})
            await play.order(retention.release_job, held)
            await work(context, other)
            assert await rows(other.database) == {}
        assert await other.database.fetchval("SELECT count(*) FROM left_rows") == 0
        for table in TABLES:
            await other.database.execute("SELECT make_partition($1, to_timestamp($2, 'YYYY_MM'))", table, MONTH)
    assert {name.rpartition(".")[2] for name in died_after} >= (AFTER_SWEEP if is_held else AFTER_DROP)


async def work_until_left(context: Context, held: UUID | None) -> None:
    while await retain.step(context):
        pass
    assert [row["job_id"] for row in await context.database.fetch("SELECT job_id FROM jobs")] == [held]


async def test_two_schedulers_sweep_a_month_together(
    context: Context, other: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retain, "HOLD_SECONDS", 0.0)  # each takes what the other is at
    monkeypatch.setattr(retain, "SLICES_MAX", 1)
    monkeypatch.setattr(retain, "ROWS_MAX", 1)
    held, *_ = [await month_job(context, play, day, tasks=4) for day in (5, 6, 7)]
    await play.order(retention.hold_job, held)
    await work_until_left(context, held)
    await pass_days(context.database)

    while any(await asyncio.gather(retain.step(context), retain.step(other))):
        pass

    assert all(jobs <= {held} for jobs in (await rows(context.database)).values())
    assert await context.database.fetchval("SELECT count(*) FROM tasks") == 4
