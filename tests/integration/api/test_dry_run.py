"""A dry run checks a job as a submission does, says what it would be, and leaves nothing."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from services.platform.aws import Aws
from services.platform.database import JOBS_CHANNEL, Database
from services.platform.settings import Settings
from tests.integration.api.conftest import array_job, ok
from tests.integration.engine.play import hearing

pytestmark = pytest.mark.usefixtures("grid")

TABLES = ("jobs", "stages", "tasks", "stage_counters", "job_dependencies", "audit_log", "idempotency_keys")


async def rows(database: Database) -> dict[str, int]:
    return {table: await database.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}


async def rehearse(client: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    return await client.post("/v1/jobs", params={"dry_run": "true"}, json=array_job(**changes))


async def test_the_answer_is_the_job_as_it_would_be_and_nothing_is_stored(
    operator: httpx.AsyncClient, database: Database
) -> None:
    first = (await ok(operator.post("/v1/jobs", json=array_job())))["job_id"]
    before = await rows(database)
    async with hearing(database, JOBS_CHANNEL) as heard:
        headers = {"Idempotency-Key": str(uuid4())}
        job = array_job(stages=[{"processor": "noop"}, {"name": "sum", "processor": "noop", "barrier": True}])
        answer = await operator.post("/v1/jobs", params={"dry_run": "true"}, json=job, headers=headers)
        assert answer.status_code == 200
        assert not heard.is_set()
    shown = answer.json()
    assert [(one["name"], one["processor"], one["pool"], one["task_count"]) for one in shown["stages"]] == [
        ("stage-0", "noop@1", "default", 3),
        ("sum", "noop@1", "default", 3),
    ]
    assert (shown["state"], shown["spec"]["share"]) == ("running", "default")
    assert await rows(database) == before
    assert (await operator.get(f"/v1/jobs/{shown['job_id']}")).status_code == 404

    waits = (await rehearse(operator, after=[first])).json()
    assert (waits["state"], waits["predecessors"][0]["job_id"]) == ("scheduled", first)
    assert await rows(database) == before
    assert (await operator.post("/v1/jobs", json=job, headers=headers)).status_code == 201


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"stages": [{"processor": "nope"}]}, "stages.0.processor"),
        ({"stages": [{"processor": "noop", "pool": "nope"}]}, "stages.0.pool"),
        ({"stages": [{"processor": "noop", "tolerated_failures": "a few"}]}, "stages.0.tolerated_failures"),
        ({"input": {"type": "lines", "uri": "s3://elsewhere/a.csv", "format": "csv"}}, "input.uri"),
        ({"after": [str(uuid4())]}, "after.0.job_id"),
        ({"priority": 1000}, "priority"),
    ],
)
async def test_what_a_submission_refuses_a_dry_run_refuses_alike(
    operator: httpx.AsyncClient, changes: dict[str, Any], field: str
) -> None:
    dry, wet = await rehearse(operator, **changes), await operator.post("/v1/jobs", json=array_job(**changes))
    assert (dry.status_code, wet.status_code) == (422, 422)
    assert dry.json()["errors"] == wet.json()["errors"]
    assert dry.json()["errors"][0]["field"] == field


async def test_a_missing_input_and_an_exceeded_quota_are_told(
    operator: httpx.AsyncClient, settings: Settings, aws: Aws
) -> None:
    await aws.s3.put_object(Bucket=settings.bucket, Key="data/a.txt", Body=b"a\n")
    there = {"type": "lines", "uri": f"s3://{settings.bucket}/data/a.txt", "format": "text"}
    assert (await rehearse(operator, input=there)).status_code == 200
    gone = await rehearse(operator, input={**there, "uri": f"s3://{settings.bucket}/data/gone.txt"})
    assert gone.json()["errors"][0]["message"] == "there is no such object (or bucket)"

    await ok(operator.put("/v1/shares/small", json={"tasks_max": 2}))
    assert (await rehearse(operator, share="small")).status_code == 409


async def test_only_a_dry_run_takes_files_that_are_yet_to_be_uploaded(
    operator: httpx.AsyncClient, settings: Settings
) -> None:
    await ok(operator.post("/v1/processors", json={"name": "fee", "command": ["true"], "inputs": {"fees": None}}))
    job = {
        "input": [
            {"type": "lines", "uri": "s3://-/a.csv", "format": "csv"},
            {"type": "lines", "uri": "s3://-/b.csv", "format": "csv"},
        ],
        "stages": [{"processor": "fee", "inputs": {"fees": "s3://-/fees.csv"}}],
    }
    assert (await rehearse(operator, **job)).status_code == 200
    refused = await operator.post("/v1/jobs", json=array_job(**job))
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "input.0.uri")


async def test_whoever_may_not_submit_may_not_rehearse(viewer: httpx.AsyncClient) -> None:
    assert (await rehearse(viewer)).status_code == 403
