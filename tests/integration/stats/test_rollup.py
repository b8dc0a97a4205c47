"""The roll-up counts each attempt once, whatever commits when, whoever rolls up, and whatever dies."""

import asyncio
import math
import random
from bisect import bisect_right
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.platform.database import UNAVAILABLE, Database, connect_database
from services.stats.histogram import INNER_BOUNDS
from services.stats.rollup import WatermarkAhead, prune, roll_up
from tests.integration.stats.conftest import catch_up, insert_attempts, insert_pool, insert_worker

SUMS = ("run_seconds", "cpu_seconds", "bytes_in", "bytes_out", "records_in", "records_out", "records_rejected")
OUTCOMES = ("succeeded", "succeeded", "succeeded", "failed", "timeout", "memory", "lost", "cancelled", "released")
OF_STAGES = ("fetch_seconds", "put_seconds")
UNMEASURED = ("lost", "cancelled", "released")


def draw_attempt(draw: random.Random) -> dict[str, Any]:
    return {
        "job_id": UUID(int=draw.randrange(4)),
        "stage": draw.randrange(2),
        "worker_id": None if draw.random() < 0.05 else UUID(int=100 + draw.randrange(3)),
        "pool": draw.choice(["default", "large"]),
        "outcome": draw.choice(OUTCOMES),
        "run_seconds": draw.lognormvariate(-1, 3),
        "finished_at": datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(seconds=draw.uniform(0, 300)),
        "memory_bytes_peak": draw.randrange(10**10),
    } | {name: draw.randrange(10**6) for name in (*SUMS, *OF_STAGES) if name != "run_seconds"}


async def total_directly(database: Database, *key: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The totals of all attempts by `key`, computed without any SQL of the service."""
    groups: dict[tuple[Any, ...], list[asyncpg.Record]] = defaultdict(list)
    for row in await database.fetch("SELECT * FROM attempts"):
        groups[tuple(row[name] for name in key)].append(row)
    totals = {}
    for group, rows in groups.items():
        buckets = [bisect_right(INNER_BOUNDS, row["run_seconds"]) for row in rows]
        totals[group] = {
            "attempts": len(rows),
            "histogram": [buckets.count(bucket) for bucket in range(max(buckets) + 1)],
            "run_seconds_max": max(row["run_seconds"] for row in rows),
            "memory_bytes_peak": max(row["memory_bytes_peak"] for row in rows),
        } | {name: pytest.approx(sum(row[name] for row in rows)) for name in SUMS}
        if "stage" in key:
            last = max(rows, key=lambda row: (row["finished_at"], row["index"]))
            totals[group] |= {name: pytest.approx(sum(row[name] for row in rows)) for name in OF_STAGES}
            totals[group] |= {"last_finished_at": last["finished_at"], "last_index": last["index"]}
            totals[group] |= await priced_directly(database, rows)
    return totals


async def priced_directly(database: Database, rows: list[asyncpg.Record]) -> dict[str, Any]:
    slots = {row["worker_id"]: row["slots"] for row in await database.fetch("SELECT * FROM workers")}
    prices = {row["name"]: row["price_per_hour"] for row in await database.fetch("SELECT * FROM pools")}
    priced = [
        row
        for row in rows
        if row["outcome"] not in UNMEASURED and row["worker_id"] in slots and prices.get(row["pool"]) is not None
    ]
    costs = (row["run_seconds"] / 3600 * prices[row["pool"]] / slots[row["worker_id"]] for row in priced)
    return {
        "priced_seconds": pytest.approx(sum(row["run_seconds"] for row in priced)),
        "cost": pytest.approx(sum(costs)),
    }


async def days_directly(database: Database) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What cost_days must have of these attempts, whose jobs have no labels."""
    days: dict[tuple[Any, ...], list[asyncpg.Record]] = defaultdict(list)
    for row in await database.fetch("SELECT * FROM attempts"):
        if row["outcome"] not in UNMEASURED:
            days[row["finished_at"].date(), row["pool"]].append(row)
    return {
        day: {"attempts": len(rows), "run_seconds": pytest.approx(sum(row["run_seconds"] for row in rows))}
        | await priced_directly(database, rows)
        for day, rows in days.items()
    }


def slices(finished_at: datetime, seconds: float) -> dict[datetime, float]:
    """How many of the `seconds` before `finished_at` are in each minute."""
    spread: dict[datetime, float] = {}
    end, left = finished_at, seconds
    while end == finished_at or left > 1e-6:
        minute = (end - timedelta(microseconds=end != finished_at)).replace(second=0, microsecond=0)
        part = min(left, (end - minute).total_seconds())
        spread[minute] = part
        end, left = minute, left - part
    return spread


async def minutes_directly(database: Database, *key: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    minutes: dict[tuple[Any, ...], dict[str, Any]] = defaultdict(
        lambda: {"succeeded": 0, "failed": 0, "busy_seconds": 0.0, "bytes_in": 0, "bytes_out": 0}
    )
    for attempt in await database.fetch("SELECT * FROM attempts"):
        row = dict(attempt) | {"worker_id": attempt["worker_id"] or UUID(int=0)}
        for minute, seconds in slices(row["finished_at"], row["run_seconds"]).items():
            values = minutes[tuple(minute if name == "minute" else row[name] for name in key)]
            if row["outcome"] not in UNMEASURED:
                values["busy_seconds"] += seconds
            if minute != row["finished_at"].replace(second=0, microsecond=0):
                continue
            values["succeeded"] += row["outcome"] == "succeeded"
            values["failed"] += row["outcome"] in ("failed", "timeout", "memory", "lost")
            for name in ("bytes_in", "bytes_out"):
                values[name] += row[name] if row["outcome"] == "succeeded" else 0
    return {
        group: values | {"busy_seconds": pytest.approx(values["busy_seconds"], abs=1e-3)}
        for group, values in minutes.items()
    }


async def read(database: Database, table: str, *key: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows = [dict(row) for row in await database.fetch(f"SELECT * FROM {table}")]
    return {tuple(row.pop(name) for name in key): row for row in rows}


async def assert_exact(database: Database) -> None:
    """All roll-ups equal what the attempts say."""
    for table, key in (("stage_stats", ("job_id", "stage", "outcome")), ("pool_stats", ("pool", "outcome"))):
        assert await read(database, table, *key) == await total_directly(database, *key)
    days = await read(database, "cost_days", "day", "pool", "labels_md5")
    assert {key[:2]: values for key, values in days.items() if values.pop("labels") == {}} == await days_directly(
        database
    )
    for table, key in (
        ("stage_minutes", ("job_id", "stage", "minute")),
        ("worker_minutes", ("minute", "pool", "worker_id")),
    ):
        assert await read(database, table, *key) == await minutes_directly(database, *key)


async def count_rolled_up(database: Database) -> int:
    count: int = await database.fetchval("SELECT coalesce(sum(attempts), 0)::bigint FROM stage_stats")
    return count


async def test_totals_and_minutes_are_those_of_the_attempts(database: Database) -> None:
    draw = random.Random(1)
    await insert_pool(database, "default")
    await database.execute("UPDATE pools SET price_per_hour = 0.5")
    for number in (100, 101):  # and nothing is known of the third
        await insert_worker(database, worker_id=UUID(int=number), slots=number - 96)
    for _ in range(5):
        await insert_attempts(database, [draw_attempt(draw) for _ in range(40)])
        await catch_up(database)
    await assert_exact(database)


async def test_a_transaction_that_commits_late_is_neither_missed_nor_counted_twice(database: Database) -> None:
    async with database.acquire() as early:
        transaction = early.transaction()
        await transaction.start()
        await insert_attempts(early, [{}] * 3)
        await insert_attempts(database, [{}] * 5)  # of a later transaction, which commits first
        for attempts_max in (1000, 2):
            assert await roll_up(database, attempts_max) == 0
        await transaction.commit()
    await catch_up(database)
    assert await count_rolled_up(database) == 8
    await assert_exact(database)


async def test_a_transaction_that_is_rolled_back_counts_nothing(database: Database) -> None:
    async with database.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await insert_attempts(connection, [{}] * 3)
        await transaction.rollback()
    await insert_attempts(database, [{}] * 5)
    await catch_up(database)
    assert await count_rolled_up(database) == 5


async def test_it_tells_how_far_it_is_while_an_older_transaction_runs(database: Database) -> None:
    await catch_up(database)
    async with database.acquire() as early:
        transaction = early.transaction()
        await transaction.start()
        await insert_attempts(early, [{}])
        began = await database.fetchval("SELECT now()")
        await insert_attempts(database, [{}])
        for _ in range(3):
            await roll_up(database)
        assert await database.fetchval("SELECT rolled_up_at FROM stats_watermark") < began
        await transaction.commit()
    await catch_up(database)
    assert await database.fetchval("SELECT rolled_up_at FROM stats_watermark") > began


async def test_racing_instances_and_writers_leave_exact_totals(database: Database, database_url: str) -> None:
    draw = random.Random(2)
    writers_done = asyncio.Event()

    async def write(connections: Database) -> None:
        for _ in range(15):
            async with connections.acquire() as connection:
                transaction = connection.transaction()
                await transaction.start()
                for _ in range(draw.randrange(1, 4)):
                    await insert_attempts(connection, [draw_attempt(draw) for _ in range(draw.randrange(1, 8))])
                await (transaction.rollback() if draw.random() < 0.2 else transaction.commit())

    async def roll(instance: Database) -> None:
        while not writers_done.is_set():
            await roll_up(instance, attempts_max=7)

    other = await connect_database(database_url)
    rollers = [asyncio.create_task(roll(instance)) for instance in (database, other, other)]
    await asyncio.gather(*(write(connections) for connections in (database, database, other, other)))
    writers_done.set()
    await asyncio.gather(*rollers)
    await catch_up(database)
    await other.close()
    await assert_exact(database)


async def test_an_instance_leaves_it_to_the_one_that_is_at_it(database: Database) -> None:
    await insert_attempts(database, [{}])
    async with database.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM stats_watermark FOR UPDATE")
        assert await roll_up(database) is None
    await catch_up(database)
    assert await count_rolled_up(database) == 1


async def test_an_instance_that_dies_in_the_middle_leaves_nothing_half_done(database: Database) -> None:
    draw = random.Random(3)
    await insert_attempts(database, [draw_attempt(draw) for _ in range(50)])
    await catch_up(database)
    await insert_attempts(database, [draw_attempt(draw) for _ in range(50)])
    async with database.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM worker_minutes FOR UPDATE")  # it stops at the last of its tables
        victim = asyncio.create_task(roll_up(database))
        while not (stuck := await connection.fetch("SELECT pid FROM pg_locks WHERE NOT granted")):
            pass
        await connection.fetch("SELECT pg_terminate_backend($1)", stuck[0]["pid"])
        with pytest.raises(UNAVAILABLE):
            await victim
        assert await count_rolled_up(database) == 50
        await transaction.rollback()
    await catch_up(database)
    assert await count_rolled_up(database) == 100
    await assert_exact(database)


async def test_a_backlog_is_taken_in_steps_of_whole_transactions(database: Database) -> None:
    for _ in range(20):
        await insert_attempts(database, [{}] * 10)
    counts: list[int] = []
    while sum(counts) < 200:
        counts.append(await roll_up(database, attempts_max=25) or 0)
    assert max(counts) == 30
    await insert_attempts(database, [{}] * 100)
    counts = []
    while sum(counts) < 100:
        counts.append(await roll_up(database, attempts_max=25) or 0)
    assert max(counts) == 100
    assert await count_rolled_up(database) == 300


async def test_a_long_attempt_is_spread_over_its_minutes_and_counts_in_its_last(database: Database) -> None:
    ended = datetime(2026, 3, 1, 12, 2, 15, tzinfo=UTC)
    await insert_attempts(database, [{"finished_at": ended, "run_seconds": 150.0, "bytes_in": 7}])
    await catch_up(database)
    rows = await database.fetch("SELECT minute, succeeded, busy_seconds, bytes_in FROM stage_minutes ORDER BY minute")
    at = [(row["minute"].strftime("%H:%M"), row["succeeded"], row["busy_seconds"], row["bytes_in"]) for row in rows]
    assert at == [("11:59", 0, 15.0, 0), ("12:00", 0, 60.0, 0), ("12:01", 0, 60.0, 0), ("12:02", 1, 15.0, 7)]


async def test_what_a_worker_did_not_measure_is_not_busy_time(database: Database) -> None:
    await insert_attempts(database, [{"outcome": outcome, "run_seconds": 30.0} for outcome in UNMEASURED])
    await catch_up(database)
    rows = await database.fetch("SELECT sum(busy_seconds) AS busy, sum(failed) AS failed FROM worker_minutes")
    assert [dict(row) for row in rows] == [{"busy": 0.0, "failed": 1}]  # the loss


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e18, math.inf, math.nan])
async def test_an_absurd_run_time_does_not_stop_the_roll_up(database: Database, seconds: float) -> None:
    await insert_attempts(database, [{"run_seconds": seconds}])
    await insert_attempts(database, [{"run_seconds": 1.0}])
    await catch_up(database)
    assert await count_rolled_up(database) == 2
    assert await database.fetchval("SELECT count(*) < 50000 FROM stage_minutes")


async def test_a_database_restored_from_a_dump_is_told_apart(database: Database) -> None:
    await database.execute("UPDATE stats_watermark SET txid = '9000000000'")
    with pytest.raises(WatermarkAhead, match="restore from a dump"):
        await roll_up(database)
    assert await database.fetchval("SELECT txid FROM stats_watermark") == 9_000_000_000


async def test_after_a_restore_from_a_dump_every_attempt_counts_once(database: Database) -> None:
    await insert_attempts(database, [{}] * 3)
    await catch_up(database)
    await insert_attempts(database, [{}] * 4)  # not rolled up when the dump is made
    # What a dump restores are ids of another server, far beyond those of this one.
    for table, column in (("attempts", "txid"), ("stats_watermark", "txid"), ("stats_watermark", "mark_txid")):
        await database.execute(f"UPDATE {table} SET {column} = ({column}::text::bigint + 9000000000)::text::xid8")

    await database.execute("SELECT restore_grid()")
    await insert_attempts(database, [{}] * 5)
    await catch_up(database)

    assert await count_rolled_up(database) == 3 + 4 + 5


async def test_old_minutes_are_pruned_and_totals_stay(database: Database) -> None:
    now = await database.fetchval("SELECT now()")
    days = (0, 1, 29, 31, 40, 50)
    await insert_attempts(database, [{"finished_at": now - timedelta(days=day), "run_seconds": 0.0} for day in days])
    await catch_up(database)
    assert await prune(database, retention_days=30, rows_max=1) == 6  # three of each table, one by one
    assert await prune(database, retention_days=30) == 0
    for table in ("stage_minutes", "worker_minutes"):
        assert await database.fetchval(f"SELECT count(*) FROM {table}") == 3
    assert await count_rolled_up(database) == 6


async def test_histograms_add_up_element_by_element(database: Database) -> None:
    cases: list[tuple[list[int], list[int], list[int]]] = [
        ([], [], []),
        ([1, 2], [], [1, 2]),
        ([1, 2], [10, 20, 30], [11, 22, 30]),
        ([0, 0, 2**40], [1], [1, 0, 2**40]),
    ]
    for a, b, total in cases:
        assert await database.fetchval("SELECT histogram_add($1, $2)", a, b) == total
        assert await database.fetchval("SELECT histogram_add($1, $2)", b, a) == total
    assert await database.fetchval("SELECT histogram_of($1)", [3, 1, 3]) == [1, 0, 2]
    assert await database.fetchval("SELECT histogram_of($1)", []) == []
