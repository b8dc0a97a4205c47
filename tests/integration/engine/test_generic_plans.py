"""What is done all the time keeps one plan, whatever the tables hold: by index, nested loops, and one month alone."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from bench.seed import Amounts, seed
from deploy.local.postgres import EmbeddedPostgres
from services.engine import transitions, workers
from services.platform.database import Connection, Database, connect_database
from services.platform.settings import Settings
from services.scheduler.loops import dispatch, finish
from tests.integration.engine.play import Play, finished, set_to_work, set_up
from tests.integration.engine.test_plans import nodes

Logged = asyncpg.connection.LoggedQuery

DAYS = 150.0
FILLED = {
    "empty": Amounts(0, 0, 0, days=DAYS),
    "small": Amounts(40, 4, 3, days=DAYS),
    "large": Amounts(2_000, 20, 20, days=DAYS),
}
PARTITIONED = re.compile(r"(tasks|attempts|stage_counters)_.*")
FIRST, LAST = (UUID(int=0), -1), (UUID(int=2**128 - 1), 2**15 - 1)


@pytest.fixture(scope="module", params=FILLED)
async def filled(request: pytest.FixtureRequest, postgres: EmbeddedPostgres, template: str) -> AsyncIterator[Database]:
    """Connections, as services make them, to a database with months of jobs, or without any."""
    url = await postgres.create_database(f"filled_{uuid4().hex}", template)
    connection = await asyncpg.connect(url)
    await seed(connection, FILLED[request.param])
    if request.param == "empty":
        await connection.execute("DELETE FROM pg_statistic")
    await connection.close()
    database = await connect_database(url)
    yield database
    await database.close()


@pytest.fixture
async def play(filled: Database) -> Play:
    return await set_up(filled, Settings())


@pytest.fixture
async def running(play: Play) -> tuple[UUID, UUID]:
    return await set_to_work(play)


async def claim(play: Play, connection: Connection, job_id: UUID, worker_id: UUID) -> None:
    rows = await connection.fetch("SELECT bundle_id FROM bundles WHERE worker_id IS NULL AND job_id = $1", job_id)
    assert len(await transitions.claim(connection, worker_id, [row["bundle_id"] for row in rows], {job_id})) == 100


async def complete(play: Play, connection: Connection, job_id: UUID, worker_id: UUID) -> None:
    rows = await connection.fetch("SELECT bundle_id FROM bundles WHERE worker_id = $1", worker_id)
    tasks = await connection.fetch("SELECT index FROM tasks WHERE job_id = $1 AND state = 'running'", job_id)
    claimed = [transitions.ClaimedTask(uuid4(), job_id, 0, row["index"], 1, {}) for row in tasks]  # type: ignore[arg-type]
    reports = [finished(task, "failed" if task.index % 2 else "succeeded") for task in claimed]
    done = [row["bundle_id"] for row in rows]
    assert await transitions.complete(connection, worker_id, reports, done) == 100


async def queue(play: Play, connection: Connection, job_id: UUID, worker_id: UUID) -> None:
    limits = {"tasks_max": 50, "bundle_tasks_max": 10, "resend_seconds": 60.0}
    assert len(await transitions.dispatch(connection, job_id, 0, pool="default", **limits)) == 5


async def beat(play: Play, connection: Connection, job_id: UUID, worker_id: UUID) -> None:
    assert (await workers.heartbeat(connection, worker_id, 1)).state == "active"


async def look_for_work(play: Play, connection: Connection, job_id: UUID, worker_id: UUID) -> None:
    assert await connection.fetch(dispatch._STAGES, *FIRST, *LAST, 10_000)


async def look_for_ends(play: Play, connection: Connection, job_id: UUID, worker_id: UUID) -> None:
    assert await connection.fetch(finish._RUNNING, *FIRST, *LAST)


Hot = Callable[[Play, Connection, UUID, UUID], Awaitable[None]]


async def kept_plan(connection: Connection, statement: Logged) -> Any:
    """The plan that the session keeps of the statement, with what it reads when it is executed."""
    prepared = await connection.prepare(statement.query)
    literals = [
        await connection.fetchval(f"SELECT quote_nullable($1::{type.name}::text) || '::{type.name}'", argument)
        for type, argument in zip(prepared.get_parameters(), statement.args, strict=True)
    ]
    await connection.execute(f"PREPARE kept AS {statement.query}")
    [plan] = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE kept({', '.join(literals)})")
    kept = await connection.fetchrow(
        "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE name = 'kept'"
    )
    await connection.execute("DEALLOCATE kept")
    assert tuple(kept) == (1, 0)
    return plan["Plan"]


@pytest.mark.parametrize(
    "hot", [claim, complete, queue, beat, look_for_work, look_for_ends], ids=lambda hot: hot.__name__
)
async def test_a_plan_that_is_kept_is_right_whatever_the_tables_hold(
    filled: Database, play: Play, running: tuple[UUID, UUID], hot: Hot
) -> None:
    month = "SELECT partition FROM job_partitions WHERE $1 >= first_job AND $1 < until_job"
    statements: list[Logged] = []
    async with filled.acquire() as connection:
        months = {row["partition"] for row in await connection.fetch(month, running[0])}
        undo = connection.transaction()
        await undo.start()
        again = connection.transaction()
        await again.start()
        connection.add_query_logger(statements.append)
        await hot(play, connection, *running)
        connection.remove_query_logger(statements.append)
        await again.rollback()
        plan = list(nodes(await kept_plan(connection, statements[-1])))
        await undo.rollback()

    kinds = {node["Node Type"] for node in plan}
    assert not kinds & {"Hash Join", "Merge Join"}
    assert not [node for node in plan if node["Node Type"] == "Seq Scan"]
    read = [node for node in plan if PARTITIONED.fullmatch(node.get("Relation Name", "")) and node["Actual Loops"]]
    if hot not in (look_for_work, look_for_ends):  # of stages of all months
        assert {node["Relation Name"] for node in read if node["Node Type"] != "ModifyTable"} <= months
    for node in read:
        if node.get("Index Name") == f"{node['Relation Name']}_pkey":
            assert all(column in node["Index Cond"] for column in ("job_id", "stage")), node
        assert (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] <= 1000, node
