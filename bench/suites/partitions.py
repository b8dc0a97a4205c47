"""What partitions cost the statements of a task, dispatch, claim and complete: with a year of months and without any.

Two databases of one server have the same rows of a year, and one connection each. They take turns, a small job each, so
that whatever else the machine does slows both down alike. Counted is the CPU of the connection's process; what is
compared are the medians.
"""

import asyncio
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from bench.seed import Amounts, seed
from deploy.local.postgres import EmbeddedPostgres
from services.engine import submission, transitions, workers
from services.engine.attempt import AttemptReport
from services.engine.migrate import migrate
from services.engine.spec import JobSpec
from services.platform.database import Database, connect_database, new_id
from services.platform.settings import Settings

_ROUNDS = 300
_WARM_UP = 20  # rounds: plans are cached, and pages are there
_TASKS, _BUNDLE = 100, 10
_AMOUNTS = Amounts(jobs=3_000, running=0, tasks=20, days=365)
_SPEC = {"name": "turn", "input": {"type": "range", "count": _TASKS}, "stages": [{"processor": "noop"}]}

# What a table that is dropped takes with it.
_FUNCTIONS = """
    SELECT pg_get_functiondef(oid) FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace AND prosqlbody IS NOT NULL"""
_VIEWS = """
    SELECT format('CREATE VIEW %I AS %s', viewname, definition) FROM pg_views WHERE schemaname = 'public'"""
_MAKE_NONE = """
    CREATE OR REPLACE FUNCTION make_partition(of_table text, month timestamptz) RETURNS void LANGUAGE sql AS ''"""
_FLATTEN = (
    "CREATE TABLE {0}_flat (LIKE {0} INCLUDING ALL) WITH ({1})",
    "DROP TABLE {0} CASCADE",
    "ALTER TABLE {0}_flat RENAME TO {0}",
)


@dataclass
class Side:
    """A database, and the milliseconds of CPU that each of its statements took."""

    database: Database
    pid: int
    worker_id: UUID = field(default_factory=new_id)
    taken: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def cpu(self) -> float:
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e6


def run(size: int | None = None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="piecework-bench-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)  # Postgres does not run as root
        server = EmbeddedPostgres(Path(directory) / "postgres")
        server.start()
        try:
            return asyncio.run(_run(server, size or _ROUNDS))
        finally:
            server.stop()


async def _run(server: EmbeddedPostgres, rounds: int) -> dict[str, Any]:
    sides = {name: await _side(server, name) for name in ("months", "flat")}
    for number in range(_WARM_UP + rounds):
        if number == _WARM_UP:
            for side in sides.values():
                side.taken.clear()
        for side in sides.values() if number % 2 else reversed(sides.values()):
            await _turn(side)
    months = await sides["months"].database.fetchval("SELECT count(*) FROM job_partitions WHERE of_table = 'tasks'")
    for side in sides.values():
        await side.database.close()
    medians = {
        name: {statement: round(statistics.median(taken), 4) for statement, taken in side.taken.items()}
        for name, side in sides.items()
    }
    sums = {name: sum(of.values()) for name, of in medians.items()}
    return {
        "rounds": rounds,
        "months": months,
        "tasks": _TASKS,
        "milliseconds": medians,
        "ratios": {name: round(medians["months"][name] / medians["flat"][name], 3) for name in medians["flat"]},
        "ratio": round(sums["months"] / sums["flat"], 3),
    }


async def _side(server: EmbeddedPostgres, name: str) -> Side:
    url = await server.create_database(name)
    await migrate(url)
    connection = await asyncpg.connect(url)
    await connection.execute("ALTER SYSTEM SET autovacuum = off")  # by itself it would slow one side's turns
    await connection.execute("SELECT pg_reload_conf()")
    if name == "flat":
        await seed(connection, Amounts(jobs=0, running=0, tasks=0))
        await _flatten(connection)
    await seed(connection, _AMOUNTS)
    await connection.close()
    database = await connect_database(url, 1)
    side = Side(database, await database.fetchval("SELECT pg_backend_pid()"))
    await workers.register_worker(
        database, worker_id=side.worker_id, pool="default", hostname="node", instance_id=None, pid=1, slots=2
    )
    return side


async def _flatten(connection: asyncpg.Connection) -> None:
    """Make the partitioned tables, which are empty, plain ones; and what depends on them again, as it was."""
    made = [row[0] for row in await connection.fetch(_FUNCTIONS)] + [row[0] for row in await connection.fetch(_VIEWS)]
    for table in await connection.fetchval("SELECT partitioned_tables()"):
        options = await connection.fetchval(
            "SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = to_regclass($1)", f"{table}_default"
        )
        for statement in _FLATTEN:
            await connection.execute(statement.format(table, options or "fillfactor = 100"))
    await connection.execute(_MAKE_NONE)
    while made:  # in whatever order they need each other
        later = []
        for definition in made:
            try:
                await connection.execute(definition)
            except (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError):
                later.append(definition)
            except asyncpg.DuplicateTableError:
                pass  # a view that was not dropped
        assert len(later) < len(made), later
        made = later


async def _turn(side: Side) -> None:
    """A job of some tasks, from their plan to their end; the statements of a task's life are counted."""
    database = side.database
    async with database.acquire() as connection, connection.transaction():
        job_id = await submission.submit_job(connection, JobSpec.model_validate(_SPEC), settings=Settings())
        await transitions.plan_same_tasks(connection, job_id, 0, 0, {"type": "index", "count": _TASKS}, _TASKS)
    async with database.acquire() as connection:
        before = side.cpu()
        messages = await transitions.dispatch(
            connection, job_id, 0, pool="default", tasks_max=_TASKS, bundle_tasks_max=_BUNDLE, resend_seconds=60
        )
        side.taken["dispatch"].append(side.cpu() - before)
    for message in messages:
        before = side.cpu()
        tasks = await transitions.claim(database, side.worker_id, [message.bundle_id], [job_id])
        claimed = side.cpu()
        reports = [
            AttemptReport(task.job_id, 0, task.index, task.attempt, "succeeded", run_seconds=0.5, output={"value": 1})
            for task in tasks
        ]
        reported = side.cpu()
        accepted = await transitions.complete(database, side.worker_id, reports, [message.bundle_id])
        side.taken["complete"].append(side.cpu() - reported)
        side.taken["claim"].append(claimed - before)
        assert accepted == len(tasks) == message.count
    await database.execute("UPDATE jobs SET state = 'succeeded', finished_at = now() WHERE job_id = $1", job_id)


def report(results: dict[str, Any]) -> Iterator[str]:
    for statement, ratio in results["ratios"].items():
        months, flat = (results["milliseconds"][side][statement] for side in ("months", "flat"))
        yield f"{statement:<9} {months:.3f} ms with {results['months']} partitions, {flat:.3f} ms without: {ratio:.3f}"
    yield f"all three: {results['ratio']:.3f}, medians of {results['rounds']} rounds"
