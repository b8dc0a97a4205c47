"""Whose a key is, and what its limits make of what it does."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.platform.auth import hash_secret, new_secret
from services.platform.database import Database
from tests.integration.api.conftest import Keys, PlayedWorker, array_job, client_of, ok
from tests.until import until

pytestmark = pytest.mark.usefixtures("grid")


async def key_of(operator: httpx.AsyncClient, app: FastAPI, **spec: Any) -> httpx.AsyncClient:
    """A client with a new key, made through the API."""
    body = {"name": "laptop", "role": "submitter"} | spec
    return client_of(app, (await ok(operator.post("/v1/api-keys", json=body)))["secret"])


async def test_a_submitter_controls_its_own_jobs_and_not_those_of_others(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    async with (
        await key_of(operator, app, principal="anna") as laptop,
        await key_of(operator, app, principal="anna", name="desktop") as desktop,
        await key_of(operator, app, principal="ben") as ben,
    ):
        job = await ok(laptop.post("/v1/jobs", json=array_job(share="finance")))
        path = f"/v1/jobs/{job['job_id']}"

        assert job["created_by"] == "anna"
        assert (await ben.get(path)).status_code == 200
        refused = await ben.post(f"{path}/cancel")
        await ok(desktop.post(f"{path}/pause"))
        await ok(operator.post(f"{path}/resume"))

    assert refused.status_code == 403 and refused.json()["type"] == "urn:piecework:forbidden"
    for part in (job["job_id"], "belongs to anna", "share finance", "the key 'laptop' of ben", "with `all`"):
        assert part in refused.json()["detail"]


async def test_what_was_made_before_there_were_owners_is_for_keys_with_all(
    app: FastAPI, operator: httpx.AsyncClient, database: Database, submitter: httpx.AsyncClient
) -> None:
    job = await ok(submitter.post("/v1/jobs", json=array_job()))
    await database.execute("UPDATE jobs SET created_by = NULL")
    path = f"/v1/jobs/{job['job_id']}/pause"

    refused = await submitter.post(path)
    async with await key_of(operator, app, all=True) as keeper:
        await ok(keeper.post(path))

    assert refused.status_code == 403 and "belongs to nobody" in refused.json()["detail"]


async def test_jobs_are_listed_by_principal(app: FastAPI, operator: httpx.AsyncClient) -> None:
    async with await key_of(operator, app, principal="anna") as anna, await key_of(operator, app, name="ben") as ben:
        hers = await ok(anna.post("/v1/jobs", json=array_job()))
        his = await ok(ben.post("/v1/jobs", json=array_job()))

        async def listed(query: str) -> list[str]:
            return [job["job_id"] for job in (await ok(anna.get(f"/v1/jobs{query}")))["items"]]

        assert await listed("") == [his["job_id"], hers["job_id"]]
        assert await listed("?mine=true") == [hers["job_id"]]
        assert await listed("?created_by=ben") == [his["job_id"]]


async def test_a_job_gets_the_limits_of_its_key_where_it_names_none(app: FastAPI, operator: httpx.AsyncClient) -> None:
    await ok(operator.put("/v1/pools/large", json={}))
    limits = {"shares": ["finance", "risk"], "labels": {"team": "claims"}, "pools": ["large"], "priority_max": -5}
    async with await key_of(operator, app, **limits) as client:
        job = await ok(client.post("/v1/jobs", json=array_job(labels={"month": "1"})))
        named = await ok(client.post("/v1/jobs", json=array_job(share="risk", priority=-7)))
        schedule = await ok(client.post("/v1/schedules", json={"name": "s", "cron": "0 2 L * *", "job": array_job()}))

    assert (job["share"], job["priority"], job["stages"][0]["pool"]) == ("finance", -5, "large")
    assert job["labels"] == {"team": "claims", "month": "1"} and job["spec"]["labels"] == job["labels"]
    assert (named["share"], named["priority"]) == ("risk", -7)
    assert (schedule["job"]["share"], schedule["job"]["labels"]) == ("finance", {"team": "claims"})


@pytest.mark.parametrize(
    ("job", "field", "message"),
    [
        ({"share": "hr"}, "share", "may only use finance"),
        ({"labels": {"team": "x"}}, "labels.team", "team=claims"),
        ({"stages": [{"processor": "noop", "pool": "default"}]}, "stages.0.pool", "may only use large"),
        ({"stages": [{"processor": "noop", "pools": ["large", "default"]}]}, "stages.0.pool", "may only use large"),
        ({"priority": 11}, "priority", "the highest priority of the key 'laptop' is 10"),
    ],
)
@pytest.mark.parametrize("scheduled", [False, True], ids=["job", "schedule"])
async def test_a_field_outside_the_limits_is_refused_by_name(
    app: FastAPI, operator: httpx.AsyncClient, job: dict[str, Any], field: str, message: str, scheduled: bool
) -> None:
    await ok(operator.put("/v1/pools/large", json={}))
    limits = {"shares": ["finance"], "labels": {"team": "claims"}, "pools": ["large"], "priority_max": 10}
    path, body = "/v1/jobs", array_job(**job)
    if scheduled:
        path, body, field = "/v1/schedules", {"name": "s", "cron": "0 2 L * *", "job": body}, f"job.{field}"
    async with await key_of(operator, app, **limits) as client:
        refused = await client.post(path, json=body)

    assert refused.status_code == 422
    [error] = refused.json()["errors"]
    assert error["field"] == field and message in error["message"]


async def test_labels_of_a_key_hide_all_other_jobs(
    app: FastAPI, operator: httpx.AsyncClient, worker: PlayedWorker
) -> None:
    other = await ok(operator.post("/v1/jobs", json=array_job(labels={"team": "hr"})))
    team = await ok(operator.post("/v1/jobs", json=array_job(labels={"team": "claims", "month": "1"})))
    async with await key_of(operator, app, labels={"team": "claims"}) as client:
        own = await ok(client.post("/v1/jobs", json=array_job()))

        listed = [job["job_id"] for job in (await ok(client.get("/v1/jobs")))["items"]]
        hidden = await client.get(f"/v1/jobs/{other['job_id']}")
        missing = await client.get("/v1/jobs/01970000-0000-7000-8000-000000000000")
        refused = await client.post(f"/v1/jobs/{team['job_id']}/cancel")

    assert listed == [own["job_id"], team["job_id"]]
    assert hidden.status_code == missing.status_code == 404
    assert hidden.json()["detail"] == missing.json()["detail"].replace(
        "01970000-0000-7000-8000-000000000000", other["job_id"]
    )
    assert refused.status_code == 403


async def test_an_expired_key_is_refused_with_its_time(
    app: FastAPI, operator: httpx.AsyncClient, database: Database
) -> None:
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    async with await key_of(operator, app, expires_at=soon) as client:
        await ok(client.get("/v1/jobs"))
        await database.execute("UPDATE api_keys SET expires_at = '2026-01-31T17:00:00Z' WHERE name = 'laptop'")
        refused = await client.get("/v1/jobs")

    assert refused.status_code == 401
    assert "expired at 2026-01-31T17:00:00Z" in refused.json()["detail"]
    past = {"name": "x", "role": "viewer", "expires_at": "2026-01-31T17:00:00Z"}
    assert (await operator.post("/v1/api-keys", json=past)).json()["errors"][0]["field"] == "expires_at"


async def test_the_use_of_a_key_is_noted_once_a_minute(keys: Keys, database: Database) -> None:
    async def last_used() -> Any:
        return await database.fetchval("SELECT last_used_at FROM api_keys WHERE name = 'k'")

    async with await keys.client("viewer", name="k") as client:
        await ok(client.get("/v1/jobs"))
        first = await until(last_used, 10)
        await ok(client.get("/v1/jobs"))
        assert await last_used() == first

        long_ago = datetime.now(UTC) - timedelta(minutes=2)
        await database.execute("UPDATE api_keys SET last_used_at = $1 WHERE name = 'k'", long_ago)
        await ok(client.get("/v1/jobs"))

        async def noted() -> bool:
            return bool(await last_used() > first)

        await until(noted, 10)


async def test_a_request_does_not_wait_until_its_use_is_noted(keys: Keys, database: Database) -> None:
    async with (
        await keys.client("viewer", name="k") as client,
        database.acquire() as connection,
        connection.transaction(),
    ):
        await connection.execute("SELECT FROM api_keys WHERE name = 'k' FOR UPDATE")
        await ok(client.get("/v1/jobs"))


async def test_everybody_sees_the_own_key(app: FastAPI, operator: httpx.AsyncClient) -> None:
    limits = {"principal": "anna", "shares": ["finance"], "priority_max": 3, "role": "viewer"}
    async with await key_of(operator, app, **limits) as client:
        me = await ok(client.get("/v1/me"))

    assert me.items() >= limits.items() and me["created_by"] == "test-operator" and me["all"] is False
    assert "secret" not in me and "key_hash" not in me


@pytest.mark.parametrize("field", ["name", "principal"])
@pytest.mark.parametrize("value", ["a\nb", "a\x00b", "a\x1b[31m", "a\u2028b", "", "x" * 201])
async def test_names_of_keys_have_no_control_characters(operator: httpx.AsyncClient, field: str, value: str) -> None:
    refused = await operator.post("/v1/api-keys", json={"name": "x", "role": "viewer"} | {field: value})

    assert refused.status_code == 422 and refused.json()["errors"][0]["field"] == field


@pytest.mark.parametrize("limit", [{"shares": ["a"]}, {"labels": {"a": "b"}}, {"pools": ["a"]}, {"priority_max": 0}])
async def test_an_operator_has_no_limits(operator: httpx.AsyncClient, limit: dict[str, Any]) -> None:
    refused = await operator.post("/v1/api-keys", json={"name": "x", "role": "operator"} | limit)

    assert refused.status_code == 422 and next(iter(limit)) in refused.json()["detail"]


async def test_a_developer_registers_processors_and_runs_no_grid(app: FastAPI, operator: httpx.AsyncClient) -> None:
    async with await key_of(operator, app, role="developer", principal="anna") as developer:
        processor = await ok(developer.post("/v1/processors", json={"name": "mine", "builtin": "noop"}))
        assert (await developer.put("/v1/pools/default", json={})).status_code == 403

    assert processor["created_by"] == "anna"


async def test_a_processor_gets_versions_from_its_owner_only(app: FastAPI, operator: httpx.AsyncClient) -> None:
    async def register(client: httpx.AsyncClient, description: str) -> httpx.Response:
        spec = {"name": "mine", "builtin": "noop", "description": description}
        return await client.post("/v1/processors", json=spec)

    async with (
        await key_of(operator, app, role="developer", principal="anna") as anna,
        await key_of(operator, app, role="developer", principal="ben") as ben,
        await key_of(operator, app, role="developer", principal="ben", shares=["finance"]) as scoped,
        await key_of(operator, app, role="developer", principal="ben", all=True) as keeper,
    ):
        assert (await register(anna, "1")).status_code == 201
        for other in (ben, scoped):
            refused = await register(other, "2")
            assert refused.status_code == 403 and "the processor mine belongs to anna" in refused.json()["detail"]
            assert (await register(other, "1")).json()["version"] == 1, "nothing would change"
        assert (await register(anna, "2")).json()["version"] == 2
        assert (await register(keeper, "3")).json()["version"] == 3


async def test_keys_of_the_release_before_control_what_they_did(
    app: FastAPI, operator: httpx.AsyncClient, database: Database
) -> None:
    """An API of the release before writes no column that it does not know."""
    secret = new_secret()
    await database.execute(
        "INSERT INTO api_keys (key_id, name, role, key_hash) VALUES (gen_random_uuid(), 'old', 'submitter', $1)",
        hash_secret(secret),
    )
    job = await ok(operator.post("/v1/jobs", json=array_job()))
    async with client_of(app, secret) as old:
        me = await ok(old.get("/v1/me"))
        await ok(old.post(f"/v1/jobs/{job['job_id']}/cancel"))

    assert (me["principal"], me["all"]) == ("old", True)


async def test_a_new_key_goes_before_no_other_unless_it_is_given_a_priority(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    limited: list[dict[str, Any]] = [{}, {"role": "developer"}]
    for limits, may in [(each, False) for each in limited] + [({"priority_max": 5}, True), ({"all": True}, True)]:
        async with await key_of(operator, app, **limits) as client:
            response = await client.post("/v1/jobs", json=array_job(priority=5))
            assert response.is_success == may, response.text
            await ok(client.post("/v1/jobs", json=array_job()))
