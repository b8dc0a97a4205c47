"""However much a grid has done: no statement of a service reads a whole table of jobs, tasks or attempts."""

import re
from datetime import UTC, datetime
from typing import Any

import asyncpg

from bench.seed import Amounts, seed
from services.platform.database import connect_database
from tests.integration.engine.test_plans import nodes
from tests.integration.engine.test_roles import ROOT, statements

LARGE = re.compile(r"(jobs|stages|tasks|attempts|stage_counters|stage_stats)(_\d+_\d+)?")
SERVICES = ("api", "engine", "scheduler", "stats", "worker")


def reads_all(node: dict[str, Any]) -> bool:
    """Whether this is a scan of a large table, or of the whole of one's primary key; partial indexes hold little."""
    table = LARGE.fullmatch(node.get("Relation Name", ""))
    if table is None or (table[2] or "") > f"{datetime.now(UTC):_%Y_%m}":  # there is nothing in months to come
        return False
    by_key = node.get("Index Name", "").endswith("_pkey") and "Index Cond" not in node
    return bool(node["Node Type"] == "Seq Scan" or by_key)


async def test_each_statement_finds_its_rows_by_an_index(own_database_url: str) -> None:
    pool = await connect_database(own_database_url)
    explained, found = 0, []
    async with pool.acquire() as connection:
        await seed(connection, Amounts(jobs=3_000, running=30, tasks=3))
        for service in SERVICES:
            for place, statement in statements(ROOT / "services" / service):
                try:
                    explain = await connection.prepare(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {statement}")
                    [plan] = await explain.fetchval(*[None] * len(explain.get_parameters()))
                except asyncpg.PostgresError:  # DuckDB's, or a part of one
                    continue
                explained += 1
                found += [(place, node["Relation Name"]) for node in nodes(plan["Plan"]) if reads_all(node)]
    await pool.close()
    assert found == []
    assert explained > 150
