"""Deleting jobs, versions, packages, pools and uploads: answered at once, refused while something needs them."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from services.platform.database import Database
from tests.integration.api.conftest import Keys, array_job, ok

pytestmark = pytest.mark.usefixtures("grid")
CSV = {"type": "lines", "format": "csv"}


async def ended(database: Database, client: httpx.AsyncClient, state: str = "succeeded", **job: Any) -> str:
    """A job that has ended."""
    job_id: str = (await ok(client.post("/v1/jobs", json=array_job(**job))))["job_id"]
    statement = "UPDATE jobs SET state = $2, finished_at = now() WHERE job_id = $1"
    await database.execute(statement, UUID(job_id), state)
    return job_id


async def refusal(request: Any) -> str:
    response = await request
    assert response.status_code == 409, response.text
    return str(response.json()["detail"])


async def test_a_job_that_has_ended_is_deleted(operator: httpx.AsyncClient, database: Database) -> None:
    job_id = await ended(database, operator)
    response = await operator.delete(f"/v1/jobs/{job_id}")
    assert response.status_code == 202
    deletion = response.json()
    assert (deletion["job_id"], deletion["results"]) == (job_id, "delete")
    shown = await ok(operator.get(f"/v1/jobs/{job_id}"))
    assert shown["deleted_at"] == deletion["deleted_at"]
    assert (await ok(operator.delete(f"/v1/jobs/{job_id}")))["deleted_at"] == deletion["deleted_at"]
    assert "being deleted" in await refusal(operator.post(f"/v1/jobs/{job_id}/retry"))
    assert "being deleted" in await refusal(operator.post(f"/v1/jobs/{job_id}/hold"))
    entries = (await ok(operator.get("/v1/audit")))["items"]
    assert entries[0]["action"] == "delete_job"
    assert entries[0]["summary"] == {"results": "delete"}


async def test_a_job_that_runs_or_is_held_is_not_deleted(operator: httpx.AsyncClient, database: Database) -> None:
    job_id = (await ok(operator.post("/v1/jobs", json=array_job())))["job_id"]
    assert "cancel it, and delete it when it has ended" in await refusal(operator.delete(f"/v1/jobs/{job_id}"))
    job_id = await ended(database, operator)
    assert (await ok(operator.post(f"/v1/jobs/{job_id}/hold")))["hold"]
    assert f"`piecework release {job_id}`" in await refusal(operator.delete(f"/v1/jobs/{job_id}"))
    assert not (await ok(operator.post(f"/v1/jobs/{job_id}/release")))["hold"]
    await ok(operator.delete(f"/v1/jobs/{job_id}"))


async def test_a_key_with_a_scope_deletes_no_job_outside_of_it(
    keys: Keys, operator: httpx.AsyncClient, database: Database
) -> None:
    job_id = await ended(database, operator, share="finance")
    async with await keys.client("submitter", shares=["risk"]) as other:
        assert (await other.delete(f"/v1/jobs/{job_id}")).status_code == 404
    async with await keys.client("submitter") as other:
        assert (await other.delete(f"/v1/jobs/{job_id}")).status_code == 403


async def test_rules_say_how_long_parts_are_kept(operator: httpx.AsyncClient) -> None:
    rule = {"labels": {"kind": "audit"}, "keep": {"interim": "1d", "results": "forever", "records": "10w"}}
    shown = await ok(operator.put("/v1/retention-rules/audit", json=rule))
    assert shown["keep"] == {"interim": 86_400, "results": "forever", "records": 6_048_000}
    assert [each["name"] for each in (await ok(operator.get("/v1/retention-rules")))["items"]] == ["audit", "default"]
    response = await operator.put("/v1/retention-rules/audit", json={"labels": {"a": "b"}, "keep": {"interim": "soon"}})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "keep.interim"
    assert (await operator.put("/v1/retention-rules/all", json={"keep": {}})).status_code == 422
    assert (await operator.put("/v1/retention-rules/default", json=rule)).status_code == 422
    assert "change it instead" in await refusal(operator.delete("/v1/retention-rules/default"))
    await ok(operator.delete("/v1/retention-rules/audit"))
    assert (await operator.get("/v1/retention-rules/audit")).status_code == 404


@pytest.mark.parametrize("reference", ["old@1", "old"])
async def test_a_version_that_something_needs_stays(
    operator: httpx.AsyncClient, database: Database, reference: str
) -> None:
    await ok(operator.post("/v1/processors", json={"name": "old", "builtin": "noop"}))
    job = array_job(stages=[{"processor": reference}])
    schedule = await ok(operator.post("/v1/schedules", json={"name": "s", "cron": "0 2 * * *", "job": job}))
    assert "the schedule s needs old@1" in await refusal(operator.delete("/v1/processors/old/versions/1"))
    await ok(operator.delete(f"/v1/schedules/{schedule['schedule_id']}"))
    job_id = await ended(database, operator, "failed", stages=[{"processor": reference}])
    assert f"the job {job_id} (failed)" in await refusal(operator.delete("/v1/processors/old/versions/1"))
    await database.execute("UPDATE jobs SET state = 'succeeded'")

    await ok(operator.delete("/v1/processors/old/versions/1"))
    assert (await operator.get("/v1/processors/old")).status_code == 404
    assert (await operator.post("/v1/jobs", json=job)).status_code == 422
    assert (await ok(operator.get(f"/v1/jobs/{job_id}")))["stages"][0]["processor"] == "old@1"
    again = await ok(operator.post("/v1/processors", json={"name": "old", "builtin": "noop"}))
    assert again["version"] == 2


async def test_a_package_that_a_version_needs_stays(operator: httpx.AsyncClient) -> None:
    code = b"PK"
    sha256 = "5e3fa9ad5a6ce8b2c8ee6a4a1d7c8c4b9a2a8a5d6a6f7c3c0f3a0a7b1d2e3f40"
    package = await ok(operator.post("/v1/packages", json={"sha256": sha256, "bytes": len(code)}))
    async with httpx.AsyncClient() as s3:
        assert (await s3.put(package["url"], content=code)).status_code == 200
    spec = {"name": "mine", "records": "m:f", "package": sha256}
    await ok(operator.post("/v1/processors", json=spec))
    assert "the processor mine@1 needs" in await refusal(operator.delete(f"/v1/packages/{sha256}"))
    await ok(operator.delete("/v1/processors/mine/versions/1"))
    await ok(operator.delete(f"/v1/packages/{sha256}"))
    assert (await operator.post("/v1/processors", json=spec)).status_code == 422
    assert (await ok(operator.post("/v1/packages", json={"sha256": sha256, "bytes": len(code)})))["url"] is not None


async def test_a_pool_that_something_needs_stays(operator: httpx.AsyncClient, database: Database) -> None:
    await ok(operator.put("/v1/pools/large", json={}))
    job_id = await ended(database, operator, "cancelled", stages=[{"processor": "noop", "pool": "large"}])
    assert f"the job {job_id} (cancelled) needs the pool large" in await refusal(operator.delete("/v1/pools/large"))
    await database.execute("UPDATE jobs SET state = 'succeeded'")
    await database.execute("UPDATE pools SET group_name = 'asg' WHERE name = 'large'")
    assert "put the pool without a group" in await refusal(operator.delete("/v1/pools/large"))
    await database.execute("UPDATE pools SET group_name = NULL")
    await ok(operator.delete("/v1/pools/large"))
    assert (await operator.get("/v1/pools/large")).status_code == 404


async def test_an_upload_that_a_job_reads_stays(operator: httpx.AsyncClient, database: Database) -> None:
    upload = await ok(operator.post("/v1/uploads", json={"filename": "a.csv", "bytes": 4}))
    async with httpx.AsyncClient() as s3:
        assert (await s3.put(upload["parts"][0]["url"], content=b"a\n1\n")).status_code == 200
    await ok(operator.post(f"/v1/uploads/{upload['upload_id']}/complete", json={}))
    job = await ok(operator.post("/v1/jobs", json=array_job(input={**CSV, "uri": upload["uri"]})))
    assert f"the job {job['job_id']} (running) reads the upload" in await refusal(
        operator.delete(f"/v1/uploads/{upload['upload_id']}")
    )
    await database.execute("UPDATE jobs SET state = 'cancelled', finished_at = now()")
    await ok(operator.delete(f"/v1/uploads/{upload['upload_id']}"))
