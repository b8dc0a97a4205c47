"""Jobs that wait for other jobs, as users name them, and as they are told of them."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from services.engine import jobs
from services.platform.aws import Aws
from services.platform.database import Database, new_id
from services.platform.settings import Settings
from services.scheduler.loop import Context
from services.scheduler.loops import clock, finish
from tests.integration.api.conftest import Keys, array_job, ok
from tests.integration.api.test_reasons import Grid, scheduler

__all__ = ["scheduler"]

pytestmark = pytest.mark.usefixtures("grid")


async def submit(client: httpx.AsyncClient, **changes: Any) -> Any:
    return await ok(client.post("/v1/jobs", json=array_job(**changes)))


async def refusal(client: httpx.AsyncClient, **changes: Any) -> Any:
    response = await client.post("/v1/jobs", json=array_job(**changes))
    assert response.status_code == 422, response.text
    return response.json()["errors"][0]


async def end(database: Database, settings: Settings, job_id: str) -> None:
    async with database.acquire() as connection:
        await jobs.end_job(connection, UUID(job_id), source="running", target="succeeded", settings=settings)


async def test_a_job_says_for_which_jobs_it_waits(
    scheduler: Grid, database: Database, settings: Settings, aws: Aws, operator: httpx.AsyncClient
) -> None:
    first, second = await submit(operator, name="load"), await submit(operator, name="clean")
    text = [first["job_id"], f"{second['job_id']}:any"]
    job = await submit(operator, after=text, input={"type": "lines", "uri": "s3://not/yet", "format": "text"})
    assert (job["state"], job["run_at"]) == ("scheduled", None)
    assert job["spec"]["after"] == [
        {"job_id": first["job_id"], "condition": "succeeded", "by_index": False},
        {"job_id": second["job_id"], "condition": "any", "by_index": False},
    ]
    await scheduler.look()
    assert await scheduler.codes(UUID(job["job_id"])) == ["waits_for_jobs"]
    reason = await scheduler.reason(UUID(job["job_id"]), "waits_for_jobs")
    assert f"the success of job load ({first['job_id']}), which is running" in reason["message"]
    assert f"the end of job clean ({second['job_id']})" in reason["message"]
    assert reason["details"] == {"jobs": [first["job_id"], second["job_id"]]}

    await end(database, settings, first["job_id"])
    shown = await ok(operator.get(f"/v1/jobs/{job['job_id']}"))
    assert [one["ended"] for one in shown["predecessors"]] == ["succeeded", None]
    await end(database, settings, second["job_id"])
    reason = await scheduler.reason(UUID(job["job_id"]), "waits_for_jobs")
    assert reason["message"] == "the jobs that it waited for have ended: it starts"
    await clock.step(Context(database, aws, settings))
    assert (await ok(operator.get(f"/v1/jobs/{job['job_id']}")))["state"] == "running"


async def test_a_job_that_fails_because_of_another_tells_webhooks_which(
    database: Database, settings: Settings, aws: Aws, operator: httpx.AsyncClient
) -> None:
    await ok(operator.post("/v1/webhook-endpoints", json={"url": "https://example.com/h", "events": ["job.failed"]}))
    first = await submit(operator)
    job = await submit(operator, after=[first["job_id"]])
    await ok(operator.post(f"/v1/jobs/{first['job_id']}/cancel"))
    context = Context(database, aws, settings)
    for step in (finish.step, clock.step, finish.step):
        await step(context)
    payload = await database.fetchval("SELECT payload FROM webhook_deliveries WHERE job_id = $1", UUID(job["job_id"]))
    assert payload["type"] == "job.failed"
    assert payload["data"]["error"]["type"] == "predecessor_failed"
    assert payload["data"]["error"]["jobs"] == [first["job_id"]]
    refused = await operator.post(f"/v1/jobs/{job['job_id']}/retry")
    assert refused.status_code == 409
    assert f"piecework retry {first['job_id']}" in refused.json()["detail"]


async def test_what_can_not_be_waited_for_is_refused_by_its_field(operator: httpx.AsyncClient) -> None:
    first = (await submit(operator))["job_id"]
    gone = str(new_id())
    assert (await refusal(operator, after=[first, gone]))["field"] == "after.1.job_id"
    assert (await refusal(operator, after=[f"{first}:sometimes"]))["field"] == "after.0.condition"
    assert (await refusal(operator, after=["nightly"]))["field"] == "after.0.job_id"
    assert "is named twice" in (await refusal(operator, after=[first, f"{first}:any"]))["message"]
    assert "waits for no other" in (await refusal(operator, after_failure="skip"))["message"]
    schedule = {"name": "s", "cron": "0 6 * * *", "job": array_job(after=[first])}
    response = await operator.post("/v1/schedules", json=schedule)
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "job.after")


async def test_a_key_waits_only_for_jobs_that_it_sees(keys: Keys, operator: httpx.AsyncClient) -> None:
    mine, other = await submit(operator, share="mine"), await submit(operator, share="other")
    async with await keys.client("submitter", shares=["mine"]) as scoped:
        assert "there is no such job" in (await refusal(scoped, after=[other["job_id"]]))["message"]
        job = await submit(scoped, after=[mine["job_id"]])
        [reason] = [one for one in job["reasons"] if one["code"] == "waits_for_jobs"]
        assert mine["job_id"] in reason["message"]


async def test_an_array_that_follows_another_knows_its_size_and_why_it_waits(
    scheduler: Grid, operator: httpx.AsyncClient
) -> None:
    first = await submit(operator)
    job = await submit(operator, after=[f"{first['job_id']}:index"])
    assert (job["state"], job["predecessors"][0]["by_index"]) == ("running", True)
    [stage] = job["stages"]
    assert (stage["task_count"], stage["progress"]["waiting"], stage["planned"]) == (3, 3, False)
    await scheduler.look()
    assert await scheduler.codes(UUID(job["job_id"])) == ["waits_for_jobs"]
    reason = await scheduler.reason(UUID(job["job_id"]), "waits_for_jobs")
    assert f"each of its tasks waits for the task of the same index of job {first['job_id']}" in reason["message"]
    refused = await refusal(operator, after=[f"{first['job_id']}:index"], input={"type": "range", "count": 4})
    assert refused["field"] == "after.0.by_index"
