"""What jobs cost: by the prices of pools, of instance types, of Spot or not, and what has none is told so."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from services.contract.resources import Capacity, Needs
from services.platform.database import Database, new_id
from services.stats.rollup import prune
from tests.integration.stats.conftest import catch_up, insert_attempts, insert_pool, insert_worker

HOUR = 3600.0


async def insert_job(database: Database, **labels: str) -> UUID:
    """With a stage in the pool `default`."""
    job_id = new_id()
    await database.execute(
        "INSERT INTO jobs (job_id, name, spec, state, labels) VALUES ($1, 'job', '{}', 'running', $2)",
        job_id,
        labels,
    )
    await database.execute(
        "INSERT INTO stages (job_id, stage, name, kind, processor, processor_version, pool, tasks_from, "
        "max_attempts, backoff_seconds, backoff_max_seconds, timeout_seconds, tolerated_failures) "
        "VALUES ($1, 0, 'map', 'map', 'noop', 1, 'default', 'input', 1, 1, 1, 1, 0)",
        job_id,
    )
    return job_id


async def put_pool(database: Database, on_demand: float | None = None, spot: float | None = None) -> None:
    await insert_pool(database, "default")
    await database.execute("UPDATE pools SET price_per_hour = $1, spot_price_per_hour = $2", on_demand, spot)


async def cost_of(client: httpx.AsyncClient, job_id: UUID) -> dict[str, Any]:
    response = await client.get(f"/v1/jobs/{job_id}/cost")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def run(database: Database, job_id: UUID, *attempts: dict[str, Any], **worker: Any) -> None:
    worker_id = await insert_worker(database, **worker)
    await insert_attempts(database, [{"job_id": job_id, "worker_id": worker_id, **each} for each in attempts])
    await catch_up(database)


async def test_a_slot_costs_its_share_of_its_node(client: httpx.AsyncClient, database: Database) -> None:
    await put_pool(database, on_demand=0.40)
    job_id = await insert_job(database)

    await run(database, job_id, {"run_seconds": HOUR}, {"run_seconds": HOUR / 2, "outcome": "failed"}, slots=4)

    cost = await cost_of(client, job_id)
    assert (cost["worker_seconds"], cost["unpriced_seconds"]) == (1.5 * HOUR, 0)
    assert cost["nodes"] == pytest.approx(0.15)
    [stage] = cost["stages"]
    assert (stage["name"], stage["pool"], stage["nodes"]) == ("map", "default", cost["nodes"])


NODE = {"slots": 4, "cpus": 16.0, "memory": 64 << 30, "gpus": 2, "disk": 100 << 30}


@pytest.mark.parametrize(
    ("needs", "worker", "part"),
    [
        (None, NODE, 1 / 4),
        ({"cpus": 8}, NODE, 1 / 2),
        ({"cpus": 0.5, "memory": 1 << 30}, NODE, 1 / 32),  # 32 of them fit, though there are four slots
        ({"cpus": 0.5, "memory": 48 << 30}, NODE, 3 / 4),
        ({"cpus": 0.5}, NODE, 1 / 4),  # of memory it takes a slot's share
        ({"cpus": 1, "memory": 1 << 30, "gpus": 2}, NODE, 1),
        ({"cpus": 1, "memory": 1 << 30, "disk": 50 << 30}, NODE, 1 / 2),
        ({"cpus": 1, "memory": 1 << 30, "gpus": 1}, NODE | {"gpus": 0}, 1 / 16),  # which Postgres gives to nobody
        ({"cpus": 32}, NODE, 1),
        ({"cpus": 8}, {"slots": 4}, 1 / 4),  # a worker that does not say what its node has
    ],
)
async def test_a_task_that_asks_for_something_costs_the_largest_share_of_it(
    client: httpx.AsyncClient, database: Database, needs: dict[str, float] | None, worker: dict[str, Any], part: float
) -> None:
    await put_pool(database, on_demand=1.0)
    job_id = await insert_job(database)
    await database.execute("UPDATE stages SET needs = $2 WHERE job_id = $1", job_id, needs)

    await run(database, job_id, {"run_seconds": HOUR}, **worker)

    assert (await cost_of(client, job_id))["nodes"] == pytest.approx(part)
    if needs is not None and "cpus" in worker:  # as the worker reserves it
        has = Capacity.of(worker)
        reserved = has.part(Needs(**needs), worker["slots"])
        assert has.count(reserved) == (0 if not has.holds(reserved) else int(1 / part + 1e-9))


@pytest.mark.parametrize(
    ("worker", "prices", "nodes"),
    [
        ({"instance_type": "m7g.large", "market": "on-demand"}, {}, 0.0816),
        ({"instance_type": "m7g.large", "market": "on-demand"}, {"on_demand": 1.0, "spot": 0.5}, 1.0),
        ({"instance_type": "m7g.large", "market": "spot"}, {"on_demand": 1.0, "spot": 0.5}, 0.5),
        ({"instance_type": "m7g.large", "market": "spot"}, {"on_demand": 1.0}, None),
        ({"instance_type": "m7g.large", "market": "spot"}, {}, None),
        ({"instance_type": "x9.huge", "market": "on-demand"}, {}, None),
        ({}, {}, None),
        ({}, {"on_demand": 1.0}, 1.0),
        ({}, {"on_demand": 0.0}, 0.0),  # which its operator says, and which is not unknown
    ],
)
async def test_the_price_of_a_node(
    client: httpx.AsyncClient, database: Database, worker: dict[str, str], prices: dict[str, float], nodes: float | None
) -> None:
    await put_pool(database, **prices)
    job_id = await insert_job(database)

    await run(database, job_id, {"run_seconds": HOUR}, slots=1, **worker)

    cost = await cost_of(client, job_id)
    assert cost["nodes"] == (None if nodes is None else pytest.approx(nodes))
    assert cost["unpriced_seconds"] == (HOUR if nodes is None else 0)


async def test_time_without_a_price_is_told_beside_that_with_one(client: httpx.AsyncClient, database: Database) -> None:
    await put_pool(database, on_demand=1.0)
    job_id = await insert_job(database)
    await run(database, job_id, {"run_seconds": 60.0}, slots=1, market="spot")
    await run(database, job_id, {"run_seconds": HOUR, "index": 1}, slots=1)
    cost = await cost_of(client, job_id)
    assert (cost["nodes"], cost["unpriced_seconds"]) == (pytest.approx(1.0), 60)


async def test_a_price_that_changes_does_not_change_what_was_spent(
    client: httpx.AsyncClient, database: Database
) -> None:
    await put_pool(database, on_demand=1.0)
    job_id = await insert_job(database)
    await run(database, job_id, {"run_seconds": HOUR}, slots=1)
    await database.execute("UPDATE pools SET price_per_hour = 3")
    await run(database, job_id, {"run_seconds": HOUR, "index": 1}, slots=1)
    assert (await cost_of(client, job_id))["nodes"] == pytest.approx(4.0)


async def test_requests_and_storage_are_estimated(client: httpx.AsyncClient, database: Database) -> None:
    await put_pool(database)
    job_id = await insert_job(database)
    await run(database, job_id, *({"bytes_out": 10**9} for _ in range(1000)))
    cost = await cost_of(client, job_id)
    assert cost["sqs_requests_max"] == pytest.approx(3000 * 0.4e-6)
    assert cost["s3_requests"] == pytest.approx(1000 * (2 * 5e-6 + 0.4e-6))
    assert cost["storage_per_month"] == pytest.approx(1000 * 0.023)
    assert (cost["prices_region"], cost["prices_date"]) == ("us-east-1", "2026-11-30")


async def test_a_job_that_has_run_nothing_has_cost_nothing(client: httpx.AsyncClient, database: Database) -> None:
    cost = await cost_of(client, await insert_job(database))
    assert (cost["nodes"], cost["unpriced_seconds"], cost["sqs_requests_max"]) == (0, 0, 0)
    assert (await client.get(f"/v1/jobs/{new_id()}/cost")).status_code == 404


async def test_costs_by_day_pool_and_label(client: httpx.AsyncClient, database: Database) -> None:
    now = await database.fetchval("SELECT date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'")
    await put_pool(database, on_demand=1.0)
    await insert_pool(database, "gpu")
    ours, theirs = await insert_job(database, team="a", run="1"), await insert_job(database, team="b")
    also_ours = await insert_job(database, team="a", run="2")
    hour = {"run_seconds": HOUR}
    for job_id in (ours, theirs, also_ours):
        await run(database, job_id, hour | {"finished_at": now}, slots=1)
    await run(database, theirs, hour | {"finished_at": now - timedelta(days=1), "index": 1}, slots=1)
    await run(database, theirs, hour | {"finished_at": now, "pool": "gpu", "index": 2}, slots=1, pool="gpu")
    await run(database, new_id(), hour | {"finished_at": now, "outcome": "lost"}, slots=1)  # which nobody measured

    async def read(**params: Any) -> list[tuple[Any, ...]]:
        items = (await client.get("/v1/stats/costs", params=params)).json()["items"]
        return [(item["day"], item["pool"], item["label"], item["attempts"], item["nodes"]) for item in items]

    today, yesterday = now.date().isoformat(), (now.date() - timedelta(days=1)).isoformat()
    assert await read(by_label="team") == [
        (today, "default", "a", 2, pytest.approx(2.0)),
        (today, "default", "b", 1, pytest.approx(1.0)),
        (today, "gpu", "b", 1, None),
        (yesterday, "default", "b", 1, pytest.approx(1.0)),
    ]
    assert await read(days=1, pool="default") == [(today, "default", None, 3, pytest.approx(3.0))]


async def test_old_days_are_forgotten(client: httpx.AsyncClient, database: Database) -> None:
    await put_pool(database, on_demand=1.0)
    job_id = await insert_job(database)
    long_ago = await database.fetchval("SELECT now() - interval '402 days'")
    await run(database, job_id, {"run_seconds": 1.0}, {"run_seconds": 1.0, "finished_at": long_ago})
    assert await database.fetchval("SELECT count(*) FROM cost_days") == 2
    await prune(database)
    assert await database.fetchval("SELECT count(*) FROM cost_days") == 1
