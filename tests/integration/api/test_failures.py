"""Which tasks fail and why, which are slow: found among millions by the indexes of their attempts."""

from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event

from services.platform.database import Database
from tests.integration.api.conftest import PlayedWorker, array_job, ok
from tests.integration.engine.test_plans import nodes

pytestmark = pytest.mark.usefixtures("grid")

ERRORS = [
    {"type": "exit_code", "message": "exit code 1: convert: no images defined '/scratch/8ae6/0-1/output/a.jpg' @ 17"},
    {"type": "exit_code", "message": "exit code 1: convert: no images defined '/scratch/01a2/0-3/output/b.jpg' @ 4"},
    {"type": "exception", "message": "KeyError: 'amout'"},
    {"type": "exception", "message": "KeyError: 'amount'"},
]


async def failed_job(submitter: httpx.AsyncClient, worker: PlayedWorker) -> str:
    """A task fails by each error, one of them at its second try; one succeeds."""
    job = array_job()
    job["stages"][0]["retry"] = {"max_attempts": 2, "backoff_seconds": 0}
    job_id: str = (await ok(submitter.post("/v1/jobs", json=job)))["job_id"]
    await worker.plan(UUID(job_id), len(ERRORS) + 1)
    for task in await worker.claim(UUID(job_id), 10):
        if task.index < len(ERRORS):
            again = task.index == 0
            await worker.finish(task, "failed", error=ERRORS[task.index], retryable=again)
        else:
            await worker.finish(task)
    [task] = await worker.claim(UUID(job_id), 10)
    await worker.finish(task, "failed", error=ERRORS[0])
    return job_id


@pytest.fixture
async def job_id(submitter: httpx.AsyncClient, worker: PlayedWorker) -> str:
    return await failed_job(submitter, worker)


async def test_failures_are_grouped_by_their_errors(submitter: httpx.AsyncClient, job_id: str) -> None:
    found = await ok(submitter.get(f"/v1/jobs/{job_id}/failures"))
    assert found["complete"] is True
    shown = [(kind["tasks"], kind["attempts"], kind["index"], kind["attempt"]) for kind in found["items"]]
    assert shown[0] == (2, 3, 0, 1)
    assert sorted(shown[1:]) == [(1, 1, 2, 1), (1, 1, 3, 1)], "the names of fields make a difference"
    assert found["items"][0]["error"] == ERRORS[0]
    assert (await ok(submitter.get(f"/v1/jobs/{job_id}/failures?stage=1")))["items"] == []


async def test_tasks_are_listed_by_the_kind_of_their_failure(submitter: httpx.AsyncClient, job_id: str) -> None:
    kinds = (await ok(submitter.get(f"/v1/jobs/{job_id}/failures")))["items"]
    path = f"/v1/jobs/{job_id}/tasks?error={kinds[0]['fingerprint']}"
    assert [task["index"] for task in (await ok(submitter.get(path)))["items"]] == [0, 1]
    first = await ok(submitter.get(f"{path}&limit=1"))
    second = await ok(submitter.get(f"{path}&limit=1&cursor={first['next_cursor']}"))
    pages = first["items"] + second["items"]
    assert [task["index"] for task in pages] == [0, 1], "a task that failed twice comes once"
    assert second["next_cursor"] is None
    failed = await ok(submitter.get(f"/v1/jobs/{job_id}/tasks?state=failed"))
    assert [task["index"] for task in failed["items"]] == [0, 1, 2, 3]
    assert (await submitter.get(f"/v1/jobs/{job_id}/tasks?error=x")).status_code == 422


async def test_the_slowest_tasks_come_first(submitter: httpx.AsyncClient, job_id: str, database: Database) -> None:
    for index, seconds in ((1, 2.0), (3, 30.0)):
        await database.execute(
            "UPDATE attempts SET run_seconds = $3 WHERE job_id = $1 AND index = $2", UUID(job_id), index, seconds
        )
    path = f"/v1/jobs/{job_id}/tasks?sort=slowest"
    assert [task["index"] for task in (await ok(submitter.get(path)))["items"]] == [3, 1]
    assert [task["index"] for task in (await ok(submitter.get(f"{path}&limit=1")))["items"]] == [3]
    assert (await submitter.get(f"{path}&cursor=x")).status_code == 422


@pytest.mark.parametrize(
    ("index", "filters"),
    [("failed", "state=failed"), ("failed", "error=0123456789ab"), ("slow", "sort=slowest")],
)
async def test_an_index_of_the_attempts_finds_them(
    submitter: httpx.AsyncClient, job_id: str, app: FastAPI, index: str, filters: str
) -> None:
    engine, said = app.state.connections.engine, []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        said.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    await ok(submitter.get(f"/v1/jobs/{job_id}/tasks?{filters}"))
    [(statement, parameters)] = [each for each in said if "attempts" in each[0]]
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # as for a table that is not as small
        plan = (await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)).scalar_one()
    read = {node["Index Name"] for node in nodes(plan[0]["Plan"]) if "Index Name" in node}
    assert any(name.startswith("attempts") and name.endswith(index) for name in read), read
    assert not any(node["Node Type"] == "Seq Scan" for node in nodes(plan[0]["Plan"]))
    assert all("Index Cond" in node for node in nodes(plan[0]["Plan"]) if "Index Name" in node)
