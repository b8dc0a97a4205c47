"""What each statement of the API and the scheduler costs with 300,000 jobs, 2,000 of them running, and 5,100,000 tasks.

Postgres itself says what CPU each statement took (`log_statement_stats`): on a machine that has other work to do, too,
this is what the statement takes on an idle one. The scheduler starts on the full database, so that each of its loops
runs, those of each hour, too; then all lists of the API are read, page by page, with each of their filters.
"""

import asyncio
import re
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from bench.grid import Grid, running_grid
from bench.processes import stop_tree
from bench.seed import Amounts, seed
from bench.suites.latency import percentiles
from services.engine.logins import LOGINS

_JOBS = 300_000
_RUNNING = 150  # one of this number of jobs runs
_TASKS = 17
_EXPIRED = 20_000  # rows of each table that the hourly loops clear
_SECONDS = 60.0  # of the scheduler
_READS = 40  # of each list
_SHOWN = 30
_OF = {LOGINS[service]: service for service in ("api", "scheduler")}

_OLD_ROWS = (
    """INSERT INTO idempotency_keys (key_id, idempotency_key, request_hash, created_at)
    SELECT gen_random_uuid(), n::text, '', now() - n * interval '5 seconds'
    FROM generate_series(1, 2 * $1::integer) n""",
    """INSERT INTO queue_messages (queue_url, job_id, body, created_at)
    SELECT 'queue-' || n % 50, gen_random_uuid(), '{}', now() - interval '5 days'
    FROM generate_series(1, $1::integer) n""",
    """INSERT INTO webhook_endpoints (endpoint_id, url, secret, enabled)
    SELECT gen_random_uuid(), 'https://example.com/' || n, '', false
    FROM generate_series(1, least(50, $1::integer)) n""",
    """INSERT INTO webhook_deliveries (delivery_id, endpoint_id, job_id, event, payload, state, created_at)
    SELECT gen_random_uuid(), e.endpoint_id, gen_random_uuid(), 'job.finished', '{}', 'delivered',
        now() - n * interval '4 minutes' FROM generate_series(1, $1::integer) n
    CROSS JOIN LATERAL (SELECT endpoint_id FROM webhook_endpoints OFFSET n % 50 LIMIT 1) e""",
    """INSERT INTO workers (worker_id, pool, hostname, pid, slots, state, started_at, heartbeat_at, stopped_at)
    SELECT gen_random_uuid(), 'default', 'node-' || n, 1, 4, 'stopped', of.at, of.at, of.at
    FROM generate_series(1, $1::integer) n CROSS JOIN LATERAL (SELECT now() - n * interval '1 minute' AS at) AS of""",
    """INSERT INTO audit_log (audit_id, principal, role, action, outcome, subject_kind, subject, at)
    SELECT gen_random_uuid(), 'user-' || n % 20, 'developer', 'submit_job', 'done', 'job', n::text,
        now() - interval '10 years' FROM generate_series(1, 2 * $1::integer) n""",
)

_LOGGING = (
    "ALTER SYSTEM SET log_statement_stats = on",
    "ALTER SYSTEM SET log_line_prefix = '%p %u '",
    "SELECT pg_reload_conf()",
)
_LINE = re.compile(r"(\d+) (\w+) (LOG|DETAIL|STATEMENT):  (.*)")
_CPU = re.compile(r"\t!\t([\d.]+) s user, ([\d.]+) s system")


def run(size: int | None = None) -> dict[str, Any]:
    jobs = size or _JOBS
    amounts = Amounts(jobs, max(1, jobs // _RUNNING), tasks=_TASKS)
    with running_grid(workers=1) as grid:
        for name in ("worker 0", "scheduler"):
            stop_tree([grid.processes.pop(name)], signal.SIGTERM)
        asyncio.run(_fill(grid, amounts))
        grid.start_scheduler()
        time.sleep(_SECONDS)
        _read_lists(grid, jobs)
        statements = _costs(grid.settings.logs / "postgres.log")
    return {"jobs": jobs, "running": amounts.running, "tasks": jobs * _TASKS, "statements": statements}


async def _fill(grid: Grid, amounts: Amounts) -> None:
    """Seed the database, and let Postgres log what statements cost."""
    connection = await asyncpg.connect(grid.settings.postgres.url("piecework"))
    await connection.execute("SET synchronous_commit = off")
    await seed(connection, amounts)
    for statement in _OLD_ROWS:
        await connection.execute(statement, min(_EXPIRED, amounts.jobs))
    await connection.execute("VACUUM ANALYZE")
    for statement in _LOGGING:
        await connection.execute(statement)
    await connection.close()


def _lists(grid: Grid, http: httpx.Client) -> Iterator[tuple[str, dict[str, str]]]:
    """Each GET of the API that gives a page, without and with each of its filters."""
    job = http.get("/v1/jobs", params={"state": "succeeded", "limit": 1}).json()["items"][0]
    known = {"job_id": job["job_id"], "stage": "0", "index": "0", "name": "noop"}
    values = {
        "state": ["running", "succeeded", "failed"],
        "name": [job["name"]],
        "share": ["share-1"],
        "label": ["team=team-7"],
        "pool": ["default"],
        "owner": ["all"],
    }
    for path, operations in http.get("/openapi.json").json()["paths"].items():
        parameters = operations.get("get", {}).get("parameters", [])
        if not any(parameter["name"] == "cursor" for parameter in parameters):
            continue
        place = path.format_map(defaultdict(lambda: job["job_id"], known))
        yield place, {}
        for parameter in parameters:
            for value in values.get(parameter["name"], ()) if parameter["in"] == "query" else ():
                yield place, {parameter["name"]: value}


def _read_lists(grid: Grid, jobs: int) -> None:
    with httpx.Client(base_url=grid.settings.api_url, headers=grid.authorization, timeout=60, trust_env=False) as http:
        for path, filters in list(_lists(grid, http)):
            cursor: dict[str, str] = {}
            for _ in range(min(_READS, jobs)):
                answer = http.get(path, params={"limit": 100, **filters, **cursor})
                if not answer.is_success:
                    break  # a filter's value that this list does not know
                following = answer.json()["next_cursor"]
                cursor = {"cursor": following} if following else {}


def _entries(log: Path) -> Iterator[tuple[str, str, str, float, str]]:
    """Process, user, message, seconds of CPU and statement of each entry about statistics."""
    statement: list[str] = []
    pid, user, message, seconds = "", "", "", 0.0
    for line in chain(log.open(), ["0 end LOG:  "]):
        if begins := _LINE.match(line):
            if begins[3] == "LOG":
                if message.endswith("STATISTICS"):
                    yield pid, user, message, seconds, " ".join(" ".join(statement).split())
                (pid, user, _, message), statement = begins.groups(), []
            elif begins[3] == "STATEMENT":
                statement = [begins[4]]
        elif cpu := _CPU.match(line):
            seconds = float(cpu[1]) + float(cpu[2])
        elif statement and line.startswith("\t"):
            statement.append(line)


def _costs(log: Path) -> list[dict[str, Any]]:
    """Of each statement of the two services: how often it ran, and the milliseconds of CPU that it took."""
    taken: dict[str, float] = defaultdict(float)  # by process: of the messages that precede an execution
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for pid, user, message, seconds, statement in _entries(log):
        if user in _OF:
            taken[pid] += 1000 * seconds
            if message.startswith(("EXECUTE", "QUERY")):
                found[_OF[user], statement].append(taken.pop(pid))
    rows = [
        {"service": service, "statement": statement, "times": len(costs), **percentiles([*costs, costs[-1]])}
        for (service, statement), costs in found.items()
    ]
    return sorted(rows, key=lambda row: -float(row["p99"]))


def report(results: dict[str, Any]) -> Iterator[str]:
    statements = results["statements"]
    slow = [row for row in statements if row["p99"] > 10]
    yield (
        f"{len(statements)} statements on {results['jobs']:,} jobs, {results['running']:,} of them running, and "
        f"{results['tasks']:,} tasks: {len(slow)} take more than 10 ms of CPU at p99"
    )
    for row in statements[:_SHOWN]:
        yield (
            f"{row['service']:<10}{row['times']:>6} times, p50 {row['p50']:7.2f} ms, p99 {row['p99']:7.2f} ms  "
            f"{row['statement'][:110]}"
        )
