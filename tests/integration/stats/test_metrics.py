"""What Prometheus scrapes."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.postgres import EmbeddedPostgres
from services.platform.database import Database
from services.platform.settings import Settings
from services.stats.backlogs import COUNTED_MAX
from services.stats.main import create_app
from services.stats.rollup import roll_up
from tests.integration.stats.conftest import catch_up, insert_attempts, insert_pool, insert_worker
from tests.integration.stats.test_grid_stats import insert_bundle, insert_job

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(client: httpx.AsyncClient) -> Samples:
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: Any) -> float:
    return samples[name, frozenset(labels.items())]


async def test_counters_of_attempts(anonymous: httpx.AsyncClient, database: Database) -> None:
    await insert_pool(database, "default")
    volumes = {"bytes_in": 100, "bytes_out": 10, "records_in": 7, "records_out": 6, "records_rejected": 1}
    await insert_attempts(database, [{"run_seconds": seconds} | volumes for seconds in (0.1, 0.3, 0.3, 5.0)])
    await insert_attempts(database, [{"run_seconds": 1.5, "outcome": "failed"} | volumes, {"outcome": "lost"}])
    await insert_attempts(database, [{"pool": "large"}])
    await catch_up(database)
    samples = await scrape(anonymous)
    assert value(samples, "piecework_attempts_total", pool="default", outcome="succeeded") == 4
    assert value(samples, "piecework_attempts_total", pool="default", outcome="failed") == 1
    assert value(samples, "piecework_attempts_total", pool="default", outcome="lost") == 1
    assert value(samples, "piecework_attempts_total", pool="large", outcome="succeeded") == 1
    assert value(samples, "piecework_bytes_total", pool="default", direction="in") == 400
    assert value(samples, "piecework_bytes_total", pool="default", direction="out") == 40
    assert value(samples, "piecework_records_total", pool="default", kind="in") == 28
    assert value(samples, "piecework_records_total", pool="default", kind="rejected") == 4
    of = {"pool": "default", "outcome": "succeeded"}
    assert value(samples, "piecework_attempt_seconds_count", **of) == 4
    assert value(samples, "piecework_attempt_seconds_sum", **of) == 5.7
    assert value(samples, "piecework_attempt_seconds_bucket", le="0.25", **of) == 1
    assert value(samples, "piecework_attempt_seconds_bucket", le="0.5", **of) == 3
    assert value(samples, "piecework_attempt_seconds_bucket", le="8.0", **of) == 4
    assert value(samples, "piecework_attempt_seconds_bucket", le="+Inf", **of) == 4


async def test_gauges_of_jobs_tasks_and_workers(anonymous: httpx.AsyncClient, database: Database) -> None:
    await insert_pool(database, "default")
    await insert_pool(database, "idle")
    await insert_worker(database, slots=4, busy=3)
    await insert_worker(database, slots=2, busy=1, state="draining")
    await insert_worker(database, slots=8, state="lost")
    await insert_job(database, "default", "running", ready=5, queued=2, running=3)
    await insert_job(database, "default", "paused", ready=1)
    await insert_job(database, "default", "succeeded", succeeded=100)
    samples = await scrape(anonymous)
    assert value(samples, "piecework_jobs", state="running") == 1
    assert value(samples, "piecework_jobs", state="paused") == 1
    assert value(samples, "piecework_jobs", state="failing") == 0
    assert value(samples, "piecework_tasks", pool="default", state="ready") == 6
    assert value(samples, "piecework_tasks", pool="default", state="running") == 3
    assert value(samples, "piecework_tasks", pool="default", state="succeeded") == 0
    assert value(samples, "piecework_tasks", pool="idle", state="ready") == 0
    assert value(samples, "piecework_workers", pool="default", state="active") == 1
    assert value(samples, "piecework_workers", pool="default", state="draining") == 1
    assert value(samples, "piecework_slots", pool="default") == 6
    assert value(samples, "piecework_slots_busy", pool="default") == 4
    assert value(samples, "piecework_slots", pool="idle") == 0
    assert value(samples, "piecework_queue_oldest_seconds", pool="default") == 0


async def test_tasks_for_several_pools_are_told_of_the_pool_where_they_are(
    anonymous: httpx.AsyncClient, database: Database
) -> None:
    for name in ("spot", "on-demand"):
        await insert_pool(database, name)
    worker_id = await insert_worker(database, pool="on-demand")
    job_id = await insert_job(database, "spot", "running", ready=5, running=2, succeeded=4)
    await database.execute("UPDATE stages SET pools = '{spot,on-demand}'")
    await insert_bundle(database, worker_id, 2, await database.fetchval("SELECT now()"))
    await database.execute("UPDATE bundles SET job_id = $1, pool = 'spot'", job_id)
    samples = await scrape(anonymous)
    for pool, ready, running, succeeded in (("spot", 5, 0, 4), ("on-demand", 0, 2, 0)):
        of_pool = [value(samples, "piecework_tasks", pool=pool, state=s) for s in ("ready", "running", "succeeded")]
        assert of_pool == [ready, running, succeeded]


async def test_sick_nodes_are_told_by_pool(anonymous: httpx.AsyncClient, database: Database) -> None:
    for name in ("default", "well"):
        await insert_pool(database, name)
    await database.execute("UPDATE pools SET instances_missing = 3, scaling_error = 'refused' WHERE name = 'default'")
    await insert_worker(database, quarantine="its disk is full", state="stopped")
    samples = await scrape(anonymous)
    for pool, quarantined, missing, failing in (("default", 1, 3, 1), ("well", 0, 0, 0)):
        assert value(samples, "piecework_workers_quarantined", pool=pool) == quarantined
        assert value(samples, "piecework_instances_missing", pool=pool) == missing
        assert value(samples, "piecework_scaling_failing", pool=pool) == failing


async def test_the_oldest_ready_task_of_a_running_job_is_told(anonymous: httpx.AsyncClient, database: Database) -> None:
    for name in ("default", "later"):
        await insert_pool(database, name)
    waits = (
        ("default", "running", 90),
        ("default", "running", 30),
        ("default", "paused", 3600),
        ("later", "running", -60),
    )
    for of_pool, state, seconds in waits:
        job_id = await insert_job(database, of_pool, state, ready=1)
        await database.execute(
            "INSERT INTO tasks (job_id, stage, index, state, ready_at, input) "
            "VALUES ($1, 0, 0, 'ready', now() - $2::interval, '{}')",
            job_id,
            timedelta(seconds=seconds),
        )
    samples = await scrape(anonymous)
    assert 90 <= value(samples, "piecework_queue_oldest_seconds", pool="default") < 120
    assert value(samples, "piecework_queue_oldest_seconds", pool="later") == 0


async def test_a_task_that_is_queued_and_has_no_worker_is_unstarted_too(
    anonymous: httpx.AsyncClient, database: Database
) -> None:
    await insert_pool(database, "gpu")
    job_id = await insert_job(database, "gpu", "running", queued=1)
    await database.execute(
        "INSERT INTO bundles (bundle_id, pool, job_id, stage, first, count, send_at, queued_at) "
        "VALUES ($1, 'gpu', $1, 0, 0, 1, now(), now() - interval '5 minutes')",
        job_id,
    )
    assert 300 <= value(await scrape(anonymous), "piecework_queue_oldest_seconds", pool="gpu") < 330
    await database.execute("UPDATE bundles SET worker_id = $1, claimed_at = now()", job_id)
    assert value(await scrape(anonymous), "piecework_queue_oldest_seconds", pool="gpu") == 0


async def test_what_waits_is_counted_by_the_reason_that_comes_first(
    anonymous: httpx.AsyncClient, database: Database
) -> None:
    for name in ("default", "gpu"):
        await insert_pool(database, name)
    await insert_worker(database)
    await database.execute("INSERT INTO scheduler_loops (loop, stepped_at) VALUES ('dispatch', now())")
    await insert_job(database, "gpu", "running", ready=5, queued=2)
    await insert_job(database, "gpu", "running", ready=1)
    await insert_job(database, "default", "paused", ready=3)
    await insert_job(database, "default", "succeeded", succeeded=3)

    samples = await scrape(anonymous)

    assert value(samples, "piecework_waiting_jobs", pool="gpu", reason="no_workers") == 2
    assert value(samples, "piecework_waiting_tasks", pool="gpu", reason="no_workers") == 8
    assert value(samples, "piecework_waiting_jobs", pool="default", reason="job_paused") == 1
    assert value(samples, "piecework_waiting_tasks", pool="default", reason="job_paused") == 3
    waiting = {labels: n for (name, labels), n in samples.items() if name == "piecework_waiting_jobs" and n}
    assert sum(waiting.values()) == 3


async def test_counters_go_on_in_a_new_process(
    anonymous: httpx.AsyncClient, database: Database, settings: Settings
) -> None:
    await insert_attempts(database, [{}] * 3)
    await catch_up(database)
    restarted = create_app(settings)
    async with (
        restarted.router.lifespan_context(restarted),
        httpx.AsyncClient(transport=httpx.ASGITransport(restarted), base_url="http://stats") as client,
    ):
        await insert_attempts(database, [{}] * 2)
        await catch_up(database)
        of = {"pool": "default", "outcome": "succeeded"}
        assert value(await scrape(client), "piecework_attempts_total", **of) == 5
        assert value(await scrape(anonymous), "piecework_attempts_total", **of) == 5


async def test_the_lag_grows_while_the_roll_up_is_held_up(anonymous: httpx.AsyncClient, database: Database) -> None:
    await catch_up(database)
    assert value(await scrape(anonymous), "piecework_rollup_lag_seconds") < 60
    async with database.acquire() as older, older.transaction():
        await older.execute("SELECT pg_current_xact_id()")  # a transaction that goes on and on
        await database.execute(
            "UPDATE stats_watermark SET rolled_up_at = now() - interval '1 hour', mark_txid = pg_current_xact_id()"
        )
        await roll_up(database)
        assert 3600 <= value(await scrape(anonymous), "piecework_rollup_lag_seconds") < 3700
    await catch_up(database)
    assert value(await scrape(anonymous), "piecework_rollup_lag_seconds") < 60


async def test_openmetrics_is_given_to_who_asks_for_it(anonymous: httpx.AsyncClient, database: Database) -> None:
    await insert_pool(database, "default")
    await insert_attempts(database, [{}])
    await catch_up(database)
    response = await anonymous.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name: family for family in parse_openmetrics(response.text)}  # type: ignore[no-untyped-call]
    assert families["piecework_attempts"].type == "counter"
    assert families["piecework_attempt_seconds"].type == "histogram"
    assert all(family.documentation for family in families.values())


async def test_no_label_grows_with_the_jobs(anonymous: httpx.AsyncClient, database: Database) -> None:
    await insert_pool(database, "default")
    await insert_job(database, "default", "running", ready=1)
    await insert_attempts(database, [{}])
    await catch_up(database)
    before = await scrape(anonymous)
    for _ in range(5):
        await insert_job(database, "default", "running", ready=1)
    await insert_attempts(
        database, [{"job_id": row["job_id"]} for row in await database.fetch("SELECT job_id FROM jobs")]
    )
    await catch_up(database)
    assert (await scrape(anonymous)).keys() == before.keys()


async def test_what_waits_is_told_with_its_age(anonymous: httpx.AsyncClient, database: Database) -> None:
    await insert_pool(database, "default")
    await database.execute("UPDATE pools SET group_name = 'group', capacity_desired = 5, capacity_max = 8")
    await insert_worker(database)
    endpoint = UUID(int=7)
    await database.execute("INSERT INTO webhook_endpoints (endpoint_id, url, secret) VALUES ($1, 'u', 's')", endpoint)
    await database.execute(
        "INSERT INTO webhook_deliveries "
        "(delivery_id, endpoint_id, job_id, event, payload, state, created_at, give_up_at) "
        "SELECT gen_random_uuid(), $1, $1, 'e', '{}', state, now() - age, now() - age + interval '24 hours' "
        "FROM (VALUES ('pending', interval '50 s'), ('pending', '100 s'), ('failed', '900 s')) AS d (state, age)",
        endpoint,
    )
    await database.execute(
        "INSERT INTO queue_messages (queue_url, job_id, body, created_at) "
        "VALUES ('http://sqs/1/claims', $1, '{}', now() - interval '30 s'), ('http://sqs/1/claims', $1, '{}', now())",
        endpoint,
    )
    await database.execute(
        "INSERT INTO schedules (schedule_id, name, cron, time_zone, misfire, job, paused, next_run_at) "
        "SELECT gen_random_uuid(), 'due ' || late, '* * * * *', 'UTC', 'skip', '{}', paused, now() - late "
        "FROM (VALUES (interval '40 s', false), ('-60 s', false), ('900 s', true)) AS s (late, paused)"
    )
    await database.execute(
        "INSERT INTO triggers (trigger_id, name, queue_url, job, last_error_at) VALUES ($1, 'in', 'q', '{}', now())",
        endpoint,
    )
    job_id = await insert_job(database, "default", "running")
    await database.execute(
        "UPDATE stages SET state = 'merging', finished_at = now() - interval '70 s' WHERE job_id = $1", job_id
    )
    samples = await scrape(anonymous)
    of = {"endpoint": str(endpoint)}
    assert value(samples, "piecework_webhook_deliveries_pending", **of) == 2
    assert 100 <= value(samples, "piecework_webhook_oldest_seconds", **of) < 130
    assert value(samples, "piecework_outbox_messages", queue="claims") == 2
    assert 30 <= value(samples, "piecework_outbox_oldest_seconds", queue="claims") < 60
    assert 40 <= value(samples, "piecework_schedules_late_seconds") < 70
    assert value(samples, "piecework_trigger_failing", trigger="in") == 1
    assert value(samples, "piecework_merges") == 1
    assert 70 <= value(samples, "piecework_merges_oldest_seconds") < 100
    assert value(samples, "piecework_workers_desired", pool="default") == 5
    assert value(samples, "piecework_workers_missing", pool="default") == 4


async def test_a_forgotten_transaction_in_any_database_of_the_server_is_told(
    anonymous: httpx.AsyncClient, postgres: EmbeddedPostgres
) -> None:
    other = await asyncpg.connect(postgres.url("postgres"))
    try:
        async with other.transaction():
            began = await other.fetchval("SELECT pg_current_xact_id()::text::bigint")
            await other.execute("SELECT pg_sleep(0.2)")
            samples = await scrape(anonymous)
            assert value(samples, "piecework_database_transaction_oldest_seconds") > 0.2
            assert value(samples, "piecework_database_idle_transaction_oldest_seconds") > 0
            assert began > 0 and value(samples, "piecework_database_xmin_age") >= 1
    finally:
        await other.close()
    assert 0 < value(samples, "piecework_database_xid_age") < 2e9
    assert value(samples, "piecework_table_bytes", table="tasks") > 0


async def test_a_large_backlog_is_counted_up_to_a_bound(anonymous: httpx.AsyncClient, database: Database) -> None:
    endpoint = UUID(int=7)
    await database.execute("INSERT INTO webhook_endpoints (endpoint_id, url, secret) VALUES ($1, 'u', 's')", endpoint)
    await database.execute(
        "INSERT INTO webhook_deliveries (delivery_id, endpoint_id, job_id, event, payload) "
        "SELECT gen_random_uuid(), $1, $1, 'e', '{}' FROM generate_series(1, 5000)",
        endpoint,
    )
    await database.execute(
        "INSERT INTO queue_messages (queue_url, job_id, body) SELECT 'q', $1, '{}' FROM generate_series(1, 5000)",
        endpoint,
    )
    samples = await scrape(anonymous)
    assert value(samples, "piecework_webhook_deliveries_pending", endpoint=str(endpoint)) == COUNTED_MAX
    assert value(samples, "piecework_outbox_messages", queue="q") == COUNTED_MAX
