"""API keys over HTTP."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from services.platform.database import Database
from tests.integration.api.conftest import Keys, client_of, ok


async def test_a_new_key_opens_the_api_until_it_is_revoked(app: FastAPI, operator: httpx.AsyncClient) -> None:
    created = await ok(operator.post("/v1/api-keys", json={"name": "nightly", "role": "viewer"}))
    async with client_of(app, created["secret"]) as client:
        assert (await client.get("/v1/jobs")).status_code == 200

        await ok(operator.delete(f"/v1/api-keys/{created['key_id']}"))
        await ok(operator.delete(f"/v1/api-keys/{created['key_id']}"))

        refused = await client.get("/v1/jobs")
    assert refused.status_code == 401 and "revoked" in refused.json()["detail"]
    [listed, _] = (await ok(operator.get("/v1/api-keys")))["items"]
    assert listed["name"] == "nightly" and listed["revoked_at"] is not None
    assert "secret" not in listed and "key_hash" not in listed


async def test_the_last_operators_key_stays(operator: httpx.AsyncClient) -> None:
    [own] = (await ok(operator.get("/v1/api-keys")))["items"]

    soon = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    await ok(operator.post("/v1/api-keys", json={"name": "x", "role": "operator", "expires_at": soon}))
    refused = await operator.delete(f"/v1/api-keys/{own['key_id']}")
    await ok(operator.post("/v1/api-keys", json={"name": "other", "role": "operator"}))

    assert refused.status_code == 409 and "last operator" in refused.json()["detail"]
    assert (await operator.delete(f"/v1/api-keys/{own['key_id']}")).status_code == 204


async def test_two_operators_cannot_revoke_each_other_at_the_same_time(keys: Keys, database: Database) -> None:
    for _ in range(5):
        await database.execute("UPDATE api_keys SET revoked_at = now()")
        one, other = await keys.client("operator"), await keys.client("operator")
        ids = [row["key_id"] for row in await database.fetch("SELECT key_id FROM api_keys WHERE revoked_at IS NULL")]

        await asyncio.gather(one.delete(f"/v1/api-keys/{ids[0]}"), other.delete(f"/v1/api-keys/{ids[1]}"))

        assert await database.fetchval("SELECT count(*) FROM api_keys WHERE revoked_at IS NULL") == 1
        await one.aclose()
        await other.aclose()


@pytest.mark.parametrize("body", [{"name": "x", "role": "root"}, {"name": "", "role": "viewer"}, {"name": "x"}])
async def test_bad_keys_are_refused(operator: httpx.AsyncClient, body: dict[str, str]) -> None:
    assert (await operator.post("/v1/api-keys", json=body)).status_code == 422
    assert (await operator.delete(f"/v1/api-keys/{uuid4()}")).status_code == 404
