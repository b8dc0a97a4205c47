"""Transitions find their tasks by the full key, also in a young database that has no statistics yet."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.engine import attempt, jobs, transitions, workers
from services.platform.database import Connection, Database, connect_database, new_id
from services.platform.settings import Settings
from tests.integration.engine.play import finished, set_to_work, set_up

Transition = Callable[[Connection, UUID, UUID], Awaitable[Any]]


@pytest.fixture
async def young_pool(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[Database]:
    """Connections, as services make them, to a database of the test's own that nothing has analyzed."""
    database = await connect_database(await postgres.create_database(f"young_{uuid4().hex}", template))
    yield database
    await database.close()


@pytest.fixture
async def job_id(young_pool: Database) -> UUID:
    job_id, _ = await set_to_work(await set_up(young_pool, Settings()))
    return job_id


async def bundle_ids(connection: Connection, condition: str) -> list[UUID]:
    return [row["bundle_id"] for row in await connection.fetch(f"SELECT bundle_id FROM bundles WHERE {condition}")]


async def dispatch(connection: Connection, job_id: UUID, worker_id: UUID) -> None:
    await transitions.dispatch(
        connection, job_id, 0, pool="default", tasks_max=50, bundle_tasks_max=10, resend_seconds=60
    )


async def claim(connection: Connection, job_id: UUID, worker_id: UUID) -> None:
    assert await transitions.claim(connection, worker_id, await bundle_ids(connection, "worker_id IS NULL"))


async def claim_of_the_job(connection: Connection, job_id: UUID, worker_id: UUID) -> None:
    bundles = await bundle_ids(connection, "worker_id IS NULL")
    assert await transitions.claim(connection, worker_id, bundles, {job_id})


async def complete(connection: Connection, job_id: UUID, worker_id: UUID) -> None:
    rows = await connection.fetch("SELECT index FROM tasks WHERE state = 'running'")
    tasks = [attempt.ClaimedTask(new_id(), job_id, 0, row["index"], 1, {}) for row in rows]
    reports = [finished(task, "failed" if task.index % 2 else "succeeded") for task in tasks]
    done = await bundle_ids(connection, "worker_id IS NOT NULL")
    assert await transitions.complete(connection, worker_id, reports, done) == 100


async def abandon(connection: Connection, job_id: UUID, worker_id: UUID) -> None:
    done = await bundle_ids(connection, "worker_id IS NOT NULL")
    assert await transitions.abandon(connection, worker_id, done) == 100


async def reap(connection: Connection, job_id: UUID, worker_id: UUID) -> None:
    await workers.stop_worker(connection, worker_id)
    assert await transitions.reap_dead_workers(connection, 5) == 100


async def pause(connection: Connection, job_id: UUID, worker_id: UUID) -> None:
    await jobs.pause_job(connection, job_id)


async def cancel(connection: Connection, job_id: UUID, worker_id: UUID) -> None:
    await jobs.cancel_job(connection, job_id)
    assert await transitions.cancel_tasks(connection, job_id, 1000)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


FULL_KEY = ("job_id", "stage", "index")
TRANSITIONS: list[tuple[Transition, tuple[str, ...]]] = [
    (dispatch, FULL_KEY),
    (claim, FULL_KEY),
    (claim_of_the_job, FULL_KEY),
    (complete, FULL_KEY),
    (abandon, FULL_KEY),
    (reap, FULL_KEY),
    (pause, FULL_KEY),
    (cancel, FULL_KEY),
]


@pytest.mark.parametrize(("transition", "key"), TRANSITIONS)
async def test_a_transition_reads_no_task_but_its_own(
    young_pool: Database, job_id: UUID, transition: Transition, key: tuple[str, ...]
) -> None:
    statements: list[asyncpg.connection.LoggedQuery] = []
    async with young_pool.acquire() as connection:
        worker_id = await connection.fetchval("SELECT worker_id FROM workers")
        undo = connection.transaction()
        await undo.start()
        connection.add_query_logger(statements.append)
        await transition(connection, job_id, worker_id)
        connection.remove_query_logger(statements.append)
        await undo.rollback()

        changing = [statement for statement in statements if "UPDATE tasks" in statement.query]
        assert changing
        for statement in changing:
            [plan] = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement.query}", *statement.args)
            for node in nodes(plan["Plan"]):
                relation = node.get("Relation Name", "")
                assert not (node["Node Type"] == "Seq Scan" and relation.startswith("tasks")), statement.query
                if node.get("Index Name") == f"{relation}_pkey" and relation.startswith("tasks"):
                    assert all(column in node["Index Cond"] for column in key), node


FUNCTIONS = [
    ("stage_sums", "SELECT s.stage, c.* FROM stages AS s CROSS JOIN LATERAL stage_sums(s.job_id, s.stage) AS c"),
    ("pool_slots", "SELECT s.stage, p.slots FROM stages AS s CROSS JOIN LATERAL pool_slots(s.pool) AS p"),
    ("is_late", "SELECT FROM bundles WHERE is_late(claimed_at, count, 5, 1)"),
    ("output_as_input", "SELECT output_as_input(output) FROM tasks"),
    ("source_of", "SELECT source_of(input) FROM tasks"),
    ("successor_input", "SELECT successor_input(output, input) FROM tasks"),
]


@pytest.mark.parametrize(("function", "statement"), FUNCTIONS)
async def test_the_planner_puts_a_functions_body_in_the_place_of_its_call(
    young_pool: Database, function: str, statement: str
) -> None:
    [plan] = await young_pool.fetchval(f"EXPLAIN (VERBOSE, FORMAT JSON) {statement}")
    assert function not in str(plan)


async def test_a_stages_counters_are_found_by_its_key(young_pool: Database, job_id: UUID) -> None:
    [plan] = await young_pool.fetchval(f"EXPLAIN (FORMAT JSON) {FUNCTIONS[0][1]}")
    scans = [node for node in nodes(plan["Plan"]) if node.get("Relation Name", "").startswith("stage_counters")]
    assert {scan["Index Cond"] for scan in scans} == {"((job_id = s.job_id) AND (stage = s.stage))"}


@pytest.mark.parametrize("transition", [dispatch, claim_of_the_job, complete])
async def test_what_is_done_all_the_time_is_planned_for_the_months_of_its_jobs(
    young_pool: Database, job_id: UUID, transition: Transition
) -> None:
    statements: list[asyncpg.connection.LoggedQuery] = []
    async with young_pool.acquire() as connection:
        worker_id = await connection.fetchval("SELECT worker_id FROM workers")
        undo = connection.transaction()
        await undo.start()
        connection.add_query_logger(statements.append)
        await transition(connection, job_id, worker_id)
        connection.remove_query_logger(statements.append)
        await undo.rollback()

        [statement] = [statement for statement in statements if "UPDATE tasks" in statement.query]
        [plan] = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement.query}", *statement.args)

    read = {node.get("Relation Name", "") for node in nodes(plan["Plan"])}
    month = await young_pool.fetchval(
        "SELECT partition FROM job_partitions WHERE of_table = 'tasks' AND $1 >= first_job AND $1 < until_job", job_id
    )
    assert {name for name in read if name.startswith("tasks_")} == {month}
