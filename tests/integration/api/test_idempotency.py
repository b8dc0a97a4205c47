"""`Idempotency-Key`: a creation that is sent again creates nothing more and gets the same answer."""

import asyncio
from typing import Any

import httpx
import pytest

from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings
from tests.integration.api.conftest import Keys, array_job, ok

pytestmark = pytest.mark.usefixtures("grid")

CREATIONS: dict[str, dict[str, Any]] = {
    "/v1/jobs": array_job(),
    "/v1/schedules": {"name": "nightly", "cron": "0 2 * * *", "job": array_job()},
    "/v1/uploads": {"filename": "a.csv", "bytes": 1},
    "/v1/processors": {"name": "copy", "builtin": "copy"},
    "/v1/webhook-endpoints": {"url": "https://example.com/hook"},
}


def keyed(key: str) -> dict[str, str]:
    return {"idempotency-key": key}


async def test_the_same_request_gets_the_same_answer_and_creates_nothing_more(
    operator: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    for path, body in CREATIONS.items():
        with subtests.test(path):
            first = await operator.post(path, json=body, headers=keyed(path))
            again = await operator.post(path, json=body, headers=keyed(path))

            assert first.status_code == again.status_code == 201
            assert first.content == again.content
            assert "idempotency-replayed" not in first.headers
            assert again.headers["idempotency-replayed"] == "true"
    assert len((await ok(operator.get("/v1/jobs")))["items"]) == 1
    assert len((await ok(operator.get("/v1/webhook-endpoints")))["items"]) == 1


async def test_a_repetition_is_answered_even_if_the_input_is_gone_by_then(
    submitter: httpx.AsyncClient, settings: Settings, aws: Aws
) -> None:
    await aws.s3.put_object(Bucket=settings.bucket, Key="in.csv", Body=b"a,b\n1,2\n")
    job = array_job(input={"type": "lines", "uri": f"s3://{settings.bucket}/in.csv", "format": "csv"})
    first = await submitter.post("/v1/jobs", json=job, headers=keyed("k"))
    await aws.s3.delete_object(Bucket=settings.bucket, Key="in.csv")

    again = await submitter.post("/v1/jobs", json=job, headers=keyed("k"))

    assert (again.status_code, again.content) == (first.status_code, first.content) == (201, first.content)


async def test_duplicates_at_the_same_time_create_one_job(submitter: httpx.AsyncClient, database: Database) -> None:
    for round_ in range(5):
        requests = (submitter.post("/v1/jobs", json=array_job(), headers=keyed(f"k{round_}")) for _ in range(8))
        answers = await asyncio.gather(*requests)

        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.content for answer in answers}) == 1
        assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
        assert await database.fetchval("SELECT count(*) FROM jobs") == round_ + 1


async def test_a_duplicate_waits_for_the_first_and_takes_over_if_that_fails(
    submitter: httpx.AsyncClient, database: Database
) -> None:
    key_id = await database.fetchval("SELECT key_id FROM api_keys WHERE name = 'test-submitter'")
    async with database.acquire() as connection:
        first = connection.transaction()  # a request that has claimed the key, and whose process then dies
        await first.start()
        await connection.execute(
            "INSERT INTO idempotency_keys (key_id, idempotency_key, request_hash) VALUES ($1, 'k', 'other')", key_id
        )
        duplicate = asyncio.create_task(submitter.post("/v1/jobs", json=array_job(), headers=keyed("k")))
        while not await database.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            assert not duplicate.done()
        await first.rollback()

    assert (await duplicate).status_code == 201
    assert await database.fetchval("SELECT count(*) FROM jobs") == 1


async def test_a_different_request_with_the_same_key_is_refused(operator: httpx.AsyncClient) -> None:
    await ok(operator.post("/v1/jobs", json=array_job(), headers=keyed("k")))

    other_body = await operator.post("/v1/jobs", json=array_job(name="other"), headers=keyed("k"))
    other_path = await operator.post("/v1/schedules", json=CREATIONS["/v1/schedules"], headers=keyed("k"))

    for response in (other_body, other_path):
        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == "Idempotency-Key"
        assert "different request" in response.json()["detail"]


async def test_keys_belong_to_an_api_key(keys: Keys) -> None:
    async with await keys.client("submitter") as one, await keys.client("submitter") as other:
        first = await ok(one.post("/v1/jobs", json=array_job(), headers=keyed("k")))
        second = await ok(other.post("/v1/jobs", json=array_job(), headers=keyed("k")))

    assert first["job_id"] != second["job_id"]


async def test_a_failed_request_leaves_its_key_free(operator: httpx.AsyncClient) -> None:
    body = array_job(stages=[{"processor": "late"}])
    refused = await operator.post("/v1/jobs", json=body, headers=keyed("k"))
    await ok(operator.post("/v1/processors", json={"name": "late", "builtin": "noop"}))

    assert refused.status_code == 422
    assert (await operator.post("/v1/jobs", json=body, headers=keyed("k"))).status_code == 201


async def test_empty_and_long_keys_are_refused(submitter: httpx.AsyncClient) -> None:
    for key in ("", "x" * 256):
        response = await submitter.post("/v1/jobs", json=array_job(), headers=keyed(key))
        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == "Idempotency-Key"
    assert (await submitter.post("/v1/jobs", json=array_job(), headers=keyed("x" * 255))).status_code == 201


async def test_the_secret_of_an_api_key_is_stored_nowhere_and_never_repeated(
    operator: httpx.AsyncClient, database: Database
) -> None:
    body = {"name": "nightly", "role": "viewer"}
    created = await ok(operator.post("/v1/api-keys", json=body, headers=keyed("k")))
    again = await operator.post("/v1/api-keys", json=body, headers=keyed("k"))

    assert again.status_code == 409
    assert created["key_id"] in again.json()["detail"] and created["secret"] not in again.text
    assert len((await ok(operator.get("/v1/api-keys")))["items"]) == 2
    stored = await database.fetch("SELECT response::text FROM idempotency_keys UNION ALL SELECT key_hash FROM api_keys")
    assert not any(created["secret"] in row[0] for row in stored)
