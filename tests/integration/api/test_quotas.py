"""Quotas: what a key and a share may use at a time, whoever asks at once; and rates."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.api.main import create_app
from services.engine import quotas
from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings
from tests.integration.api.conftest import Keys, array_job, client_of, ok
from tests.integration.engine.play import until_blocked

pytestmark = pytest.mark.usefixtures("grid")


async def limit_key(operator: httpx.AsyncClient, name: str, **limits: float) -> str:
    keys = (await ok(operator.get("/v1/api-keys")))["items"]
    [key_id] = [key["key_id"] for key in keys if key["name"] == name]
    await ok(operator.put(f"/v1/api-keys/{key_id}/quotas", json=limits))
    return str(key_id)


async def refused(request: Any) -> str:
    """Why a quota has refused the request."""
    response = await request
    assert (response.status_code, response.json()["type"]) == (409, "urn:piecework:quota-exceeded")
    detail: str = response.json()["detail"]
    return detail


async def test_a_key_has_no_more_active_jobs_than_its_quota_and_again_room_when_one_ends(
    operator: httpx.AsyncClient, submitter: httpx.AsyncClient, database: Database
) -> None:
    await limit_key(operator, "test-submitter", jobs_max=2)
    jobs = [await ok(submitter.post("/v1/jobs", json=array_job())) for _ in range(2)]

    why = await refused(submitter.post("/v1/jobs", json=array_job(run_at="2099-01-01T00:00:00Z")))

    assert why == (
        "the key 'test-submitter' has the quota jobs_max = 2, of which 2 are used, and this takes 1: wait until a job "
        "ends, cancel one, or have an operator raise the quota"
    )
    await ok(operator.post("/v1/jobs", json=array_job()))  # another key, in the same share
    await database.execute("UPDATE jobs SET state = 'cancelled' WHERE job_id = $1", jobs[0]["job_id"])
    await ok(submitter.post("/v1/jobs", json=array_job()))
    await refused(submitter.post(f"/v1/jobs/{jobs[0]['job_id']}/retry"))


async def test_a_share_has_quotas_whatever_the_keys_of_its_jobs(
    operator: httpx.AsyncClient, submitter: httpx.AsyncClient
) -> None:
    await ok(operator.put("/v1/shares/claims", json={"jobs_max": 2, "priority_max": 5}))
    for client in (operator, submitter):
        await ok(client.post("/v1/jobs", json=array_job(share="claims")))

    assert "the share 'claims' has the quota jobs_max = 2" in await refused(
        submitter.post("/v1/jobs", json=array_job(share="claims"))
    )
    await ok(submitter.post("/v1/jobs", json=array_job(share="media")))
    await ok(operator.put("/v1/shares/claims", json={"priority_max": 5}))
    assert "priority_max = 5" in await refused(submitter.post("/v1/jobs", json=array_job(share="claims", priority=6)))
    await ok(submitter.post("/v1/jobs", json=array_job(share="claims", priority=5)))


async def test_the_tasks_of_all_stages_count_as_soon_as_they_are_known(
    operator: httpx.AsyncClient, submitter: httpx.AsyncClient
) -> None:
    await limit_key(operator, "test-submitter", tasks_max=50)
    chain = [{"name": str(n), "processor": "noop"} for n in range(4)]
    await ok(submitter.post("/v1/jobs", json=array_job(input={"type": "range", "count": 10}, stages=chain)))

    assert "tasks_max = 50, of which 40 are used, and this takes 11" in await refused(
        submitter.post("/v1/jobs", json=array_job(input={"type": "range", "count": 11}))
    )
    await ok(submitter.post("/v1/jobs", json=array_job(input={"type": "range", "count": 10})))


async def test_two_submissions_at_once_do_not_both_take_the_last_place(
    operator: httpx.AsyncClient, submitter: httpx.AsyncClient
) -> None:
    await limit_key(operator, "test-submitter", jobs_max=3)

    responses = await asyncio.gather(*(submitter.post("/v1/jobs", json=array_job()) for _ in range(12)))

    assert sorted(response.status_code for response in responses) == [201] * 3 + [409] * 9


async def test_submissions_wait_for_each_other_only_where_a_quota_may_become_tight(
    operator: httpx.AsyncClient, submitter: httpx.AsyncClient, database: Database
) -> None:
    async def posted() -> int:
        async with asyncio.timeout(20):
            return (await submitter.post("/v1/jobs", json=array_job())).status_code

    async with database.acquire() as connection, connection.transaction():
        await connection.execute(quotas._LOCK, ["share default"])  # another submission, that takes its time
        assert await posted() == 201
        await limit_key(operator, "test-submitter", jobs_max=3)
        waiting = asyncio.create_task(posted())
        await until_blocked(database)
    assert await waiting == 201


async def test_schedules_and_uploads_are_limited(operator: httpx.AsyncClient, submitter: httpx.AsyncClient) -> None:
    await limit_key(operator, "test-submitter", schedules_max=1, upload_bytes_max=100, upload_bytes_day_max=150)
    schedule = {"cron": "* * * * *", "job": array_job()}
    await ok(submitter.post("/v1/schedules", json=schedule | {"name": "a"}))
    assert "schedules_max = 1" in await refused(submitter.post("/v1/schedules", json=schedule | {"name": "b"}))

    first = await ok(submitter.post("/v1/uploads", json={"filename": "a", "bytes": 60}))
    assert "upload_bytes_max = 100, of which 60 are used, and this takes 60" in await refused(
        submitter.post("/v1/uploads", json={"filename": "b", "bytes": 60})
    )
    async with httpx.AsyncClient() as s3:
        assert (await s3.put(first["parts"][0]["url"], content=b"x" * 60)).is_success
    await ok(submitter.post(f"/v1/uploads/{first['upload_id']}/complete", json={"parts": []}))
    await ok(submitter.post("/v1/uploads", json={"filename": "b", "bytes": 60}))
    assert "upload_bytes_day_max = 150, of which 120" in await refused(
        submitter.post("/v1/uploads", json={"filename": "c", "bytes": 40})
    )


async def test_everybody_sees_what_is_used_of_their_quotas(
    operator: httpx.AsyncClient, submitter: httpx.AsyncClient
) -> None:
    key_id = await limit_key(operator, "test-submitter", jobs_max=7, requests_per_second=9.5)
    await ok(submitter.post("/v1/jobs", json=array_job(share="claims")))
    await ok(operator.put("/v1/shares/claims", json={"jobs_max": 3}))

    own = await ok(submitter.get("/v1/quotas"))

    assert own == await ok(operator.get(f"/v1/api-keys/{key_id}/quotas"))
    by_name = {quota["name"]: (quota["limit"], quota["used"]) for quota in own["quotas"]}
    assert by_name["jobs_max"] == (7, 1)
    assert by_name["tasks_max"] == (1_000_000_000, 3)
    assert by_name["requests_per_second"] == (9.5, None)
    share = await ok(submitter.get("/v1/shares/claims"))
    assert {"name": "jobs_max", "limit": 3.0, "used": 1.0} in share["quotas"]
    assert [each["name"] for each in (await ok(submitter.get("/v1/shares")))["items"]] == ["claims"]
    await ok(operator.put(f"/v1/api-keys/{key_id}/quotas", json={}))
    assert (await ok(submitter.get("/v1/quotas")))["own"]["jobs_max"] is None


# Rates.


@pytest.fixture
async def slow_app(settings: Settings, aws: Aws) -> Any:
    app = create_app(settings.model_copy(update={"requests_per_second": 0.5, "failures_per_second": 0.5}))
    async with app.router.lifespan_context(app):
        yield app


async def test_a_key_that_asks_too_often_gets_a_429_that_says_when_to_come_back(
    slow_app: FastAPI, database: Database
) -> None:
    keys = Keys(database, slow_app)
    async with await keys.client("viewer") as busy, await keys.client("viewer") as other:
        for _ in range(5):
            await ok(busy.get("/v1/jobs"))
        response = await busy.get("/v1/jobs")
        await ok(other.get("/v1/jobs"))

    assert (response.status_code, response.json()["type"]) == (429, "urn:piecework:too-many-requests")
    assert response.headers["retry-after"] == "2"
    assert response.headers["ratelimit-policy"] == '"key";q=5;w=10'


async def test_whoever_sends_many_bad_keys_gets_a_429_and_a_good_key_from_there_still_works(
    slow_app: FastAPI, database: Database
) -> None:
    async with await Keys(database, slow_app).client("viewer") as good, client_of(slow_app, "pw_bad") as bad:
        await ok(good.get("/v1/jobs"))
        statuses = [(await bad.get("/v1/jobs")).status_code for _ in range(7)]
        await ok(good.get("/v1/jobs"))

    assert statuses == [401] * 5 + [429] * 2
