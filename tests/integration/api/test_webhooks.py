"""Webhook endpoints and deliveries."""

import asyncio
import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from services.api.main import create_app
from services.engine.webhooks import disable
from services.platform.aws import Aws
from services.platform.database import WEBHOOKS_CHANNEL, Database
from services.platform.settings import Settings
from tests.integration.api.conftest import Keys, ok

ROOT = Path(__file__).parents[3]


async def test_the_secret_is_shown_once_and_signs(operator: httpx.AsyncClient) -> None:
    created = await ok(operator.post("/v1/webhook-endpoints", json={"url": "https://example.com/hook"}))
    other = await ok(operator.post("/v1/webhook-endpoints", json={"url": "https://example.com/hook"}))

    prefix, _, encoded = created["secret"].partition("_")
    assert prefix == "whsec" and len(base64.b64decode(encoded, validate=True)) >= 24
    assert created["secret"] != other["secret"]
    assert Webhook(created["secret"]).sign("msg_1", datetime.now(UTC), "{}").startswith("v1,")
    assert created["events"] == ["job.succeeded", "job.failed", "job.cancelled"]
    shown = {name: value for name, value in created.items() if name != "secret"}
    assert await ok(operator.get(f"/v1/webhook-endpoints/{created['endpoint_id']}")) == shown
    assert (await ok(operator.get("/v1/webhook-endpoints")))["items"][1] == shown


async def test_a_secret_is_stored_nowhere(operator: httpx.AsyncClient, database: Database) -> None:
    body, once = {"url": "https://example.com/hook"}, {"idempotency-key": "once"}
    created = await ok(operator.post("/v1/webhook-endpoints", json=body, headers=once))
    path = f"/v1/webhook-endpoints/{created['endpoint_id']}/rotate"
    rotated = await ok(operator.post(path, json={}))

    for table in ("webhook_endpoints", "idempotency_keys"):
        rows = await database.fetch(f"SELECT to_jsonb(t)::text AS text FROM {table} AS t")
        for secret in (created["secret"], rotated["secret"]):
            assert rows and all(secret.removeprefix("whsec_") not in row["text"] for row in rows)
    again = await operator.post("/v1/webhook-endpoints", json=body, headers=once)
    assert again.headers["idempotency-replayed"] == "true" and again.json() == created  # derived again, not stored


async def test_a_secret_is_rotated_with_an_overlap(operator: httpx.AsyncClient) -> None:
    created = await ok(operator.post("/v1/webhook-endpoints", json={"url": "https://example.com/hook"}))
    path = f"/v1/webhook-endpoints/{created['endpoint_id']}/rotate"

    rotated = await ok(operator.post(path, json={"overlap_seconds": "1h"}))
    early = await operator.post(path, json={"overlap_seconds": 60})
    leaked = await ok(operator.post(path, json={"overlap_seconds": 0}))

    assert len({created["secret"], rotated["secret"], leaked["secret"]}) == 3
    until = datetime.fromisoformat(rotated["previous_until"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < until <= timedelta(hours=1)
    assert early.status_code == 409 and "overlap_seconds 0" in early.json()["detail"]
    assert leaked["previous_until"] is None
    shown = await ok(operator.get(f"/v1/webhook-endpoints/{created['endpoint_id']}"))
    assert "secret" not in shown and shown["previous_until"] is None
    assert (await operator.post(f"/v1/webhook-endpoints/{uuid4()}/rotate", json={})).status_code == 404
    assert (await operator.post(path, json={"overlap_seconds": -1})).status_code == 422


async def test_without_a_key_no_secret_is_made(settings: Settings, aws: Aws, database: Database) -> None:
    keyless = create_app(settings.model_copy(update={"secret_key": None}))
    async with keyless.router.lifespan_context(keyless), await Keys(database, keyless).client("operator") as client:
        response = await client.post("/v1/webhook-endpoints", json={"url": "https://example.com/hook"})

    assert response.status_code == 409 and "PIECEWORK_SECRET_KEY" in response.json()["detail"]


async def test_bad_endpoints_are_refused_by_field(operator: httpx.AsyncClient) -> None:
    for url in ("ftp://example.com", "example.com", "https://", "https://a b.com/", "https://[::1", "http://x:99999/"):
        response = await operator.post("/v1/webhook-endpoints", json={"url": url})
        assert response.status_code == 422, url
        assert response.json()["errors"][0]["field"] == "url"
    secretive = await operator.post("/v1/webhook-endpoints", json={"url": "https://me:hunter2@example.com/"})
    assert secretive.status_code == 422 and "hunter2" not in secretive.text
    events = await operator.post("/v1/webhook-endpoints", json={"url": "https://example.com", "events": ["job.eaten"]})
    assert events.json()["errors"][0]["field"] == "events.0"


async def test_private_addresses_are_refused_unless_allowed(
    settings: Settings, aws: Aws, database: Database, operator: httpx.AsyncClient
) -> None:
    private = [
        "localhost", "api.localhost", "LOCALHOST.", "127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254",
        "0.0.0.0", "[::1]", "[fe80::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f000001",
        "127.0.0.1.", "0177.0.0.1", "\uff11\uff12\uff17.0.0.1", "100.64.0.1", "224.0.0.1", "[ff02::1]", "[fec0::1]",
        "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:a9fe:a9fe::1]", "[::127.0.0.1]", "[::ffff:0:127.0.0.1]",
    ]  # fmt: skip
    guarded = create_app(settings.model_copy(update={"webhook_private_addresses": False}))
    async with guarded.router.lifespan_context(guarded), await Keys(database, guarded).client("operator") as client:
        for host in private:
            response = await client.post("/v1/webhook-endpoints", json={"url": f"http://{host}:8080/"})
            assert response.status_code == 422, host
        for host in ("example.com", "93.184.216.34", "[2606:4700::1111]", "[64:ff9b::808:808]"):
            assert (await client.post("/v1/webhook-endpoints", json={"url": f"http://{host}/"})).status_code == 201
        for port, status in ((80, 201), (443, 201), (8443, 201), (22, 422), (6379, 422), (0, 422)):
            url = f"https://example.com:{port}/"
            assert (await client.post("/v1/webhook-endpoints", json={"url": url})).status_code == status, url
    for host in private:
        assert (await operator.post("/v1/webhook-endpoints", json={"url": f"http://{host}/"})).status_code == 201


async def test_webhook_private_behind_ipv6(settings: Settings, aws: Aws, database: Database) -> None:
    urls = json.loads((ROOT / "tests/cases/data/webhook-private-behind-ipv6/urls.json").read_text())
    guarded = create_app(settings.model_copy(update={"webhook_private_addresses": False}))
    async with guarded.router.lifespan_context(guarded), await Keys(database, guarded).client("operator") as client:
        for kind, status in (("must be refused", 422), ("must be taken", 201)):
            for url in urls[kind]:
                assert (await client.post("/v1/webhook-endpoints", json={"url": url})).status_code == status, url


async def deliver(database: Database, endpoint_id: str, state: str) -> str:
    """A delivery whose last try was long ago."""
    delivery_id: str = await database.fetchval(
        "INSERT INTO webhook_deliveries (delivery_id, endpoint_id, job_id, event, payload, state, tries, status_code, "
        "next_try_at, give_up_at) VALUES (gen_random_uuid(), $1, $2, 'job.failed', '{}', $3, 9, 500, "
        "now() - interval '1 day', now() - interval '1 hour') RETURNING delivery_id::text",
        endpoint_id,
        uuid4(),
        state,
    )
    return delivery_id


async def test_deliveries_are_listed_filtered_and_sent_again(
    operator: httpx.AsyncClient, database: Database, database_url: str, settings: Settings
) -> None:
    one = (await ok(operator.post("/v1/webhook-endpoints", json={"url": "https://example.com/1"})))["endpoint_id"]
    two = (await ok(operator.post("/v1/webhook-endpoints", json={"url": "https://example.com/2"})))["endpoint_id"]
    failed, delivered = await deliver(database, one, "failed"), await deliver(database, two, "delivered")

    async def found(query: str) -> set[str]:
        return {each["delivery_id"] for each in (await ok(operator.get(f"/v1/webhook-deliveries?{query}")))["items"]}

    assert await found("") == {failed, delivered}
    assert await found("state=failed") == await found(f"endpoint_id={one}") == {failed}
    assert await found(f"job_id={uuid4()}") == set()

    listener = await asyncpg.connect(database_url)
    woken = asyncio.Event()
    await listener.add_listener(WEBHOOKS_CHANNEL, lambda *_: woken.set())
    again = await ok(operator.post(f"/v1/webhook-deliveries/{failed}/redeliver"))
    await asyncio.wait_for(woken.wait(), 10)
    await listener.close()

    now = datetime.now(UTC)
    assert (again["state"], again["tries"]) == ("pending", 9)
    assert datetime.fromisoformat(again["next_try_at"]) <= now
    assert datetime.fromisoformat(again["give_up_at"]) > now + timedelta(hours=settings.webhook_hours - 1)
    assert (await operator.post(f"/v1/webhook-deliveries/{uuid4()}/redeliver")).status_code == 404


async def test_a_deleted_endpoint_takes_its_deliveries_along(operator: httpx.AsyncClient, database: Database) -> None:
    endpoint = (await ok(operator.post("/v1/webhook-endpoints", json={"url": "https://example.com/"})))["endpoint_id"]
    await deliver(database, endpoint, "pending")

    await ok(operator.delete(f"/v1/webhook-endpoints/{endpoint}"))

    assert (await ok(operator.get("/v1/webhook-deliveries")))["items"] == []
    assert (await operator.delete(f"/v1/webhook-endpoints/{endpoint}")).status_code == 404


async def test_a_disabled_endpoint_says_why_and_is_enabled_again(
    operator: httpx.AsyncClient, database: Database
) -> None:
    created = await ok(operator.post("/v1/webhook-endpoints", json={"url": "https://example.com/hook"}))
    endpoint_id = created["endpoint_id"]
    delivery_id = await database.fetchval(
        "INSERT INTO webhook_deliveries (delivery_id, endpoint_id, job_id, event, payload, state) "
        "VALUES (gen_random_uuid(), $1, gen_random_uuid(), 'job.failed', '{}', 'failed') RETURNING delivery_id",
        endpoint_id,
    )
    await database.execute("UPDATE webhook_endpoints SET failures = 9, failing_since = now(), paused_until = now()")
    async with database.acquire() as connection:
        await disable(connection, UUID(endpoint_id), "it answered 410 Gone")

    shown = await ok(operator.get(f"/v1/webhook-endpoints/{endpoint_id}"))
    refused = await operator.post(f"/v1/webhook-deliveries/{delivery_id}/redeliver")
    assert (shown["enabled"], shown["failures"], shown["disabled_reason"]) == (False, 9, "it answered 410 Gone")
    assert refused.status_code == 409 and "enable it first" in refused.json()["detail"]

    enabled = await ok(operator.post(f"/v1/webhook-endpoints/{endpoint_id}/enable"))
    assert enabled == {name: value for name, value in created.items() if name != "secret"}
    assert (await ok(operator.post(f"/v1/webhook-deliveries/{delivery_id}/redeliver")))["state"] == "pending"
    entries = await database.fetch("SELECT action FROM audit_log WHERE subject = $1 ORDER BY audit_id", endpoint_id)
    assert [entry["action"] for entry in entries] == [
        f"{action}_webhook_endpoint" for action in ("create", "disable", "enable")
    ]
    assert (await operator.post(f"/v1/webhook-endpoints/{uuid4()}/enable")).status_code == 404


@pytest.mark.parametrize("column", [None, "endpoint_id", "job_id"])
async def test_lists_of_deliveries_are_read_in_their_order(
    operator: httpx.AsyncClient, database: Database, column: str | None
) -> None:
    await ok(operator.post("/v1/webhook-endpoints", json={"url": "https://example.com/hook"}))
    await database.execute(
        "INSERT INTO webhook_deliveries (delivery_id, endpoint_id, job_id, event, payload, state, created_at) "
        "SELECT gen_random_uuid(), endpoint_id, gen_random_uuid(), 'job.failed', '{}', 'failed', "
        "now() - n * interval '1 second' FROM generate_series(1, 3000) AS n, webhook_endpoints"
    )
    await database.execute("ANALYZE webhook_deliveries")
    where = f"WHERE {column} = (SELECT {column} FROM webhook_deliveries LIMIT 1)" if column else ""

    plan = await database.fetch(
        f"EXPLAIN SELECT * FROM webhook_deliveries {where} ORDER BY created_at DESC, delivery_id DESC LIMIT 51"
    )

    lines = "\n".join(row[0] for row in plan)
    assert "Index Scan Backward" in lines and "Sort" not in lines, lines
