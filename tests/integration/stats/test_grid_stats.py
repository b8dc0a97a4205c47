"""Workers, pools and the timeline of everything."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from services.platform.database import Database, new_id
from tests.integration.stats.conftest import catch_up, insert_attempts, insert_pool, insert_worker


@pytest.fixture
async def now(database: Database) -> datetime:
    now: datetime = await database.fetchval("SELECT now()")
    return now


async def read(client: httpx.AsyncClient, path: str, **params: Any) -> list[dict[str, Any]]:
    response = await client.get(f"/v1/stats/{path}", params=params)
    assert response.status_code == 200, response.text
    items: list[dict[str, Any]] = response.json()["items"]
    return items


async def insert_bundle(database: Database, worker_id: object, count: int, claimed_at: datetime) -> None:
    await database.execute(
        "INSERT INTO bundles (bundle_id, pool, job_id, stage, first, count, send_at, worker_id, claimed_at) "
        "VALUES ($1, 'default', $1, 0, 0, $2, $4, $3, $4)",
        new_id(),
        count,
        worker_id,
        claimed_at,
    )


async def test_a_workers_busy_share_is_of_the_time_it_lived(
    client: httpx.AsyncClient, database: Database, now: datetime
) -> None:
    worker_id = await insert_worker(database, started_at=now - timedelta(minutes=10), slots=2, busy=1, hostname="a")
    ended = {"worker_id": worker_id, "finished_at": now - timedelta(minutes=2), "run_seconds": 60.0}
    await insert_attempts(database, [ended] * 4 + [ended | {"outcome": "failed"}])
    await catch_up(database)
    worker = (await read(client, "workers"))[0]
    assert worker.pop("busy_share") == pytest.approx(300 / (2 * 600), rel=0.05)
    assert datetime.fromisoformat(worker.pop("heartbeat_at")) >= now
    assert worker == {
        "worker_id": str(worker_id), "pool": "default", "hostname": "a", "state": "active", "slots": 2, "busy": 1,
        "tasks_succeeded": 4, "tasks_failed": 1,
    }  # fmt: skip


async def test_only_the_window_counts(client: httpx.AsyncClient, database: Database, now: datetime) -> None:
    worker_id = await insert_worker(database, started_at=now - timedelta(hours=5))
    # Two hours of one slot, of which the last hour and a bit are in the window of an hour.
    await insert_attempts(database, [{"worker_id": worker_id, "finished_at": now, "run_seconds": 7200.0}])
    await catch_up(database)
    assert (await read(client, "workers", minutes=60))[0]["busy_share"] == pytest.approx(0.5, rel=0.01)
    assert (await read(client, "workers", minutes=240))[0]["busy_share"] == pytest.approx(0.25, rel=0.01)


async def test_a_task_that_still_runs_keeps_its_worker_busy(
    client: httpx.AsyncClient, database: Database, now: datetime
) -> None:
    worker_id = await insert_worker(database, started_at=now - timedelta(minutes=20), slots=2, busy=1)
    await insert_bundle(database, worker_id, 1, now - timedelta(minutes=10))
    await insert_bundle(database, worker_id, 1, now - timedelta(minutes=8))  # waits for its slot
    await insert_bundle(
        database, worker_id, 50, now - timedelta(minutes=15)
    )  # its first tasks have recorded themselves
    assert (await read(client, "workers"))[0]["busy_share"] == pytest.approx(600 / (2 * 1200), rel=0.05)


async def test_no_worker_is_more_than_busy(client: httpx.AsyncClient, database: Database, now: datetime) -> None:
    worker_id = await insert_worker(database, started_at=now - timedelta(seconds=30), slots=1, busy=1)
    await insert_attempts(database, [{"worker_id": worker_id, "run_seconds": 45.0}])
    await insert_bundle(database, worker_id, 1, now - timedelta(seconds=30))
    await catch_up(database)
    assert (await read(client, "workers"))[0]["busy_share"] == 1.0


async def test_workers_that_are_gone_are_told_for_as_long_as_the_window(
    client: httpx.AsyncClient, database: Database, now: datetime
) -> None:
    long_ago, lately = now - timedelta(minutes=90), now - timedelta(minutes=30)
    await insert_worker(database, hostname="old", state="stopped", started_at=long_ago, stopped_at=long_ago)
    stopped = await insert_worker(
        database,
        hostname="stopped",
        state="stopped",
        slots=1,
        started_at=now - timedelta(minutes=40),
        stopped_at=lately,
    )
    await insert_worker(
        database, hostname="lost", state="lost", started_at=long_ago, heartbeat_at=lately, stopped_at=lately
    )
    await insert_worker(database, hostname="new", started_at=now + timedelta(seconds=5))  # has had no time yet
    ended = {"worker_id": stopped, "finished_at": lately, "run_seconds": 300.0}
    await insert_attempts(database, [ended])
    await catch_up(database)
    shares = {worker["hostname"]: worker["busy_share"] for worker in await read(client, "workers")}
    assert shares == {"stopped": pytest.approx(0.5, rel=0.01), "lost": 0.0, "new": 0.0}


async def test_workers_of_one_pool(client: httpx.AsyncClient, database: Database) -> None:
    await insert_worker(database, pool="default", hostname="b")
    await insert_worker(database, pool="default", hostname="a")
    await insert_worker(database, pool="large", hostname="c")
    assert [worker["hostname"] for worker in await read(client, "workers", pool="default")] == ["a", "b"]
    assert [worker["hostname"] for worker in await read(client, "workers")] == ["a", "b", "c"]
    assert await read(client, "workers", pool="none") == []


async def insert_job(database: Database, of_pool: str, state: str, **counts: int) -> UUID:
    """A job of one running stage with these counters."""
    job_id = new_id()
    await database.execute("INSERT INTO jobs (job_id, name, spec, state) VALUES ($1, 'job', '{}', $2)", job_id, state)
    await database.execute(
        "INSERT INTO stages (job_id, stage, name, kind, processor, processor_version, pool, tasks_from, state, "
        "max_attempts, backoff_seconds, backoff_max_seconds, timeout_seconds, tolerated_failures) "
        "VALUES ($1, 0, 's', 'map', 'p', 1, $2, 'input', 'running', 1, 0, 0, 1, 0)",
        job_id,
        of_pool,
    )
    for slot, (name, count) in enumerate(counts.items()):
        await database.execute(
            f"INSERT INTO stage_counters (job_id, stage, slot, {name}) VALUES ($1, 0, $2, $3)", job_id, slot, count
        )
    return job_id


async def test_pools_sum_their_workers_and_the_work_that_waits(
    client: httpx.AsyncClient, database: Database, now: datetime
) -> None:
    for name in ("default", "idle"):
        await insert_pool(database, name)
    started = now - timedelta(minutes=10)
    live = await insert_worker(database, started_at=started, slots=2, busy=2)
    gone = await insert_worker(database, started_at=started, slots=4, state="stopped", stopped_at=now)
    await insert_worker(database, started_at=started, slots=2, state="draining")
    ended = {"finished_at": now, "run_seconds": 120.0}
    await insert_attempts(
        database,
        [ended | {"worker_id": live}, ended | {"worker_id": gone}, ended | {"worker_id": None, "outcome": "failed"}],
    )
    await insert_job(database, "default", "running", ready=5, queued=2, running=3, succeeded=100)
    await insert_job(database, "default", "paused", ready=10)
    await insert_job(database, "default", "cancelled", ready=1000)
    await catch_up(database)
    default, idle = await read(client, "pools")
    assert default.pop("busy_share") == pytest.approx(240 / (8 * 600), rel=0.05)
    assert default == {
        "pool": "default", "workers_live": 2, "slots": 4, "busy": 2, "tasks_succeeded": 2, "tasks_failed": 1,
        "backlog": 17,
    }  # fmt: skip
    assert idle == {
        "pool": "idle", "workers_live": 0, "slots": 0, "busy": 0, "busy_share": 0.0, "tasks_succeeded": 0,
        "tasks_failed": 0, "backlog": 0,
    }  # fmt: skip


async def test_what_is_queued_for_the_next_pool_is_its_backlog(client: httpx.AsyncClient, database: Database) -> None:
    for name in ("spot", "on-demand"):
        await insert_pool(database, name)
    job_id = await insert_job(database, "spot", "running", ready=5, queued=4)
    await database.execute("UPDATE stages SET pools = '{spot,on-demand}'")
    await database.execute(
        "INSERT INTO bundles (bundle_id, pool, job_id, stage, first, count, send_at) "
        "VALUES (gen_random_uuid(), 'spot', $1, 0, 0, 1, now()), (gen_random_uuid(), 'on-demand', $1, 0, 1, 3, now())",
        job_id,
    )
    assert {pool["pool"]: pool["backlog"] for pool in await read(client, "pools")} == {"spot": 6, "on-demand": 3}


async def test_the_timeline_sums_all_jobs_by_minute(
    client: httpx.AsyncClient, database: Database, now: datetime
) -> None:
    minute = now.replace(second=0, microsecond=0) - timedelta(minutes=10)
    ended = {"run_seconds": 2.0, "bytes_in": 5, "bytes_out": 1}
    await insert_attempts(
        database,
        [ended | {"job_id": new_id(), "worker_id": new_id(), "finished_at": minute + timedelta(seconds=s)}
         for s in (10, 20, 70)]
        + [ended | {"pool": "large", "finished_at": minute + timedelta(seconds=30)}]
        + [ended | {"finished_at": minute - timedelta(hours=2, seconds=-9)}],
    )  # fmt: skip
    await catch_up(database)

    def values(items: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        return [(item["succeeded"], item["busy_seconds"], item["bytes_in"], item["bytes_out"]) for item in items]

    assert values(await read(client, "timeline")) == [(3, 6.0, 15, 3), (1, 2.0, 5, 1)]
    assert values(await read(client, "timeline", pool="large")) == [(1, 2.0, 5, 1)]
    assert len(await read(client, "timeline", minutes=180)) == 3
    assert await read(client, "timeline", pool="none") == []


@pytest.mark.parametrize("path", ["workers", "pools", "timeline"])
async def test_a_window_must_be_a_number_of_minutes(client: httpx.AsyncClient, path: str) -> None:
    for minutes in ("0", "-5", "10081", "soon"):
        response = await client.get(f"/v1/stats/{path}", params={"minutes": minutes})
        assert response.status_code == 422
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["errors"][0]["field"] == "minutes"
