"""Maintenance: room for the months to come, and nothing kept that nobody needs."""

import asyncio
from datetime import datetime, timedelta

import pytest

from services.platform.database import new_id
from services.scheduler.loop import Context
from services.scheduler.loops import maintain
from tests.integration.engine.play import Play
from tests.integration.engine.test_plans import nodes

TABLES = ("attempts", "tasks", "stage_counters", "stage_stats")


async def partitions(context: Context) -> set[str]:
    return {row["partition"] for row in await context.database.fetch("SELECT partition FROM job_partitions")}


async def tell(context: Context, queue_url: str, created_at: datetime, messages: int = 1) -> None:
    await context.database.execute(
        "INSERT INTO queue_messages (queue_url, job_id, body, created_at) "
        "SELECT $1, gen_random_uuid(), '{}', $2 FROM generate_series(1, $3::integer)",
        queue_url,
        created_at,
        messages,
    )


async def test_tasks_have_a_partition_for_this_month_and_the_next_three(context: Context, play: Play) -> None:
    now: datetime = await context.database.fetchval("SELECT now() AT TIME ZONE 'UTC'")
    months = [divmod(now.year * 12 + now.month - 1 + n, 12) for n in range(4)]
    expected = {f"{table}_{year}_{month + 1:02}" for table in TABLES for year, month in months}
    for name in sorted(expected)[:2]:
        await context.database.execute(f"DROP TABLE {name}")

    for _ in range(2):
        await maintain.step(context)
        assert expected <= await partitions(context)

    job_id = await play.submit()
    await play.plan(job_id, 3)
    await play.run_all(job_id)
    for table in TABLES:
        assert await context.database.fetchval(f"SELECT count(*) FROM {table}_default") == 0
    assert await context.database.fetchval(f"SELECT count(*) FROM tasks_{now:%Y_%m}") == 3
    assert await context.database.fetchval(f"SELECT count(*) FROM attempts_{now:%Y_%m}") == 3


async def test_a_long_reader_at_a_rollover_stops_nobody(context: Context, play: Play) -> None:
    newest = max(name for name in await partitions(context) if name.startswith("attempts_2"))
    await context.database.execute(f"DROP TABLE {newest}")
    job_id = await play.submit()
    await play.plan(job_id, 3)
    async with context.database.acquire() as reader, reader.transaction():  # as pg_dump, which reads every table
        await reader.execute("SELECT FROM attempts LIMIT 1")
        async with asyncio.timeout(5):
            await maintain.step(context)  # the rest of its round goes on, too
            await play.run_all(job_id)
        assert newest not in await partitions(context)

    await maintain.step(context)

    assert newest in await partitions(context)


async def test_rows_in_the_default_partition_do_not_stop_the_months_after_theirs(context: Context) -> None:
    before, newest = sorted(name for name in await partitions(context) if name.startswith("attempts_2"))[-2:]
    await context.database.execute(f"DROP TABLE {before}; DROP TABLE {newest}")
    await context.database.execute(
        "INSERT INTO attempts (job_id, stage, index, attempt, pool, outcome, started_at, finished_at, run_seconds) "
        "SELECT first_job_at(at), 0, 0, 1, 'default', 'lost', at, at, 0 "
        f"FROM to_timestamp('{before}', '\"attempts_\"YYYY_MM') AS at"
    )

    await maintain.step(context)

    assert newest in await partitions(context)
    assert before not in await partitions(context)


async def test_expired_rows_are_removed_and_the_others_kept(context: Context, play: Play) -> None:
    now: datetime = await context.database.fetchval("SELECT now()")
    for key, hours in (("old", 25), ("new", 23)):
        await context.database.execute(
            "INSERT INTO idempotency_keys (key_id, idempotency_key, request_hash, created_at) VALUES ($1, $2, '', $3)",
            new_id(),
            key,
            now - timedelta(hours=hours),
        )
    endpoint_id = new_id()
    await context.database.execute(
        "INSERT INTO webhook_endpoints (endpoint_id, url, secret) VALUES ($1, 'https://example.com', '')", endpoint_id
    )
    for event, state, days in (("old", "delivered", 31), ("given up", "failed", 31), ("due", "pending", 31),
                               ("new", "delivered", 29)):  # fmt: skip
        await context.database.execute(
            "INSERT INTO webhook_deliveries (delivery_id, endpoint_id, job_id, event, payload, state, created_at) "
            "VALUES ($1, $2, $1, $3, '{}', $4, $5)",
            new_id(),
            endpoint_id,
            event,
            state,
            now - timedelta(days=days),
        )
    for queue, days in (("gone", 5), ("gone", 3), ("here", 3), ("lost", 5)):
        await tell(context, queue, now - timedelta(days=days))
    job_id = await play.submit()
    await play.plan(job_id, 1)
    old, holding, recent, silent = [await play.register() for _ in range(4)]
    await play.run(holding, job_id)
    for worker_id, state, days in ((old, "stopped", 8), (holding, "lost", 8), (recent, "lost", 6)):
        await context.database.execute(
            "UPDATE workers SET state = $2, stopped_at = $3 WHERE worker_id = $1",
            worker_id,
            state,
            now - timedelta(days=days),
        )

    assert not await maintain.step(context)

    keys = await context.database.fetch("SELECT idempotency_key AS name FROM idempotency_keys")
    events = await context.database.fetch("SELECT event AS name FROM webhook_deliveries")
    queues = await context.database.fetch("SELECT queue_url, created_at FROM queue_messages")
    assert sorted(map(tuple, queues)) == [(queue, now - timedelta(days=3)) for queue in ("gone", "here")]
    assert [row["name"] for row in keys] == ["new"]
    assert sorted(row["name"] for row in events) == ["due", "new"]
    workers = {row["worker_id"] for row in await context.database.fetch("SELECT worker_id FROM workers")}
    assert workers == {holding, recent, silent}


async def test_a_long_backlog_is_not_read_to_find_what_has_expired(context: Context, play: Play) -> None:
    now: datetime = await context.database.fetchval("SELECT now()")
    await tell(context, "gone", now - timedelta(days=5), messages=3)
    for queue in ("gone", "slow"):
        await tell(context, queue, now, messages=2000)
    [statement] = [expired for expired in maintain._EXPIRED if "queue_messages" in expired]

    async with context.database.acquire() as connection:
        [plan] = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", 10)

    reading = [node for node in nodes(plan["Plan"]) if node.get("Relation Name") == "queue_messages"]
    rows = [(node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in reading]
    assert sum(rows) < 50
    assert await context.database.fetchval("SELECT count(*) FROM queue_messages") == 4000


async def test_much_is_removed_in_portions(context: Context, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintain, "ROWS_MAX", 2)
    await context.database.execute(
        "INSERT INTO idempotency_keys (key_id, idempotency_key, request_hash, created_at) "
        "SELECT gen_random_uuid(), 'k', '', now() - interval '2 days' FROM generate_series(1, 5)"
    )

    assert [await maintain.step(context) for _ in range(3)] == [True, True, False]
    assert await context.database.fetchval("SELECT count(*) FROM idempotency_keys") == 0
