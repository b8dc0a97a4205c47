"""Looks at all running stages, page by page: each of them is seen once, and no statement reads more than a page."""

from uuid import UUID

import pytest

from services.engine import running
from services.engine.running import fetch_running
from services.platform.database import Database
from services.scheduler.loops import dispatch, finish, scale, stragglers
from tests.integration.engine.play import Play
from tests.integration.engine.test_plans import nodes

LOOK = """
    SELECT job_id, stage FROM stages
    WHERE state = 'running' AND (job_id, stage) > ($1, $2) AND (job_id, stage) <= ($3, $4) ORDER BY job_id, stage"""


async def test_each_running_stage_is_seen_once_whatever_the_pages(
    play: Play, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = []
    for stages in (1, 2, 1):
        job_id = await play.submit(stages=stages)
        expected += [(job_id, stage) for stage in range(stages)]
    await database.execute("UPDATE stages SET state = 'running'")
    for stages_max in (1, 2, 3, 4, 5):
        monkeypatch.setattr(running, "STAGES_MAX", stages_max)
        assert [tuple(row) for row in await fetch_running(database, LOOK)] == expected

    await database.execute("UPDATE stages SET state = 'succeeded'")
    assert await fetch_running(database, LOOK) == []


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [
        (dispatch._STAGES, [10_000]),
        (finish._RUNNING, []),
        (scale._BACKLOG, ["default", 60.0]),
        (stragglers._STAGES, []),
    ],
    ids=["dispatch", "finish", "scale", "stragglers"],
)
async def test_a_look_reads_no_more_than_its_page(
    play: Play, database: Database, statement: str, arguments: list[object]
) -> None:
    job_ids = sorted([await play.submit() for _ in range(8)])
    for job_id in job_ids:
        await play.plan(job_id, 1)
    await database.execute("INSERT INTO jobs SELECT (jsonb_populate_record(j, "
        "jsonb_build_object('job_id', gen_random_uuid(), 'state', 'running'))).* "
        "FROM jobs AS j, generate_series(1, 500) WHERE job_id = $1", job_ids[0])  # fmt: skip
    await database.execute("INSERT INTO stages "
        "SELECT (jsonb_populate_record(s, jsonb_build_object('job_id', j.job_id))).* "
        "FROM stages AS s, jobs AS j WHERE s.job_id = $1 AND NOT j.job_id = ANY($2::uuid[])",
        job_ids[0], job_ids)  # fmt: skip
    await database.execute("UPDATE stages SET state = 'running'")
    for table in ("jobs", "stages", "stage_counters"):
        await database.execute(f"ANALYZE {table}")
    page: list[UUID | int] = [job_ids[1], 0, job_ids[4], 0]

    async with database.acquire() as connection:
        for mode in ("force_custom_plan", "force_generic_plan"):
            await connection.execute(f"SET plan_cache_mode = {mode}")
            [plan] = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *page, *arguments)
            read = [
                (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
                for node in nodes(plan["Plan"])
                if node.get("Relation Name") in ("jobs", "stages")
            ]
            assert 3 <= max(read) <= 12, mode
