"""Rules of alerts: what is refused, what is shown to whom, and what never is."""

from typing import Any

import httpx
import pytest

from services.api.main import create_app
from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import ApiSettings
from tests.integration.api.conftest import Keys, ok

WEBHOOK = {"type": "webhook", "url": "https://example.com/alerts"}
SLACK = {"type": "slack", "url": "https://hooks.slack.com/services/T0/B0/secret-part"}
RULE = {"name": "nightly", "on": {"failed": True}, "to": WEBHOOK}

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"on": {}}, "on", "it tells of nothing"),
    ({"on": {"failed": False}}, "on", "it tells of nothing"),
    ({"on": {"late": 5}}, "on.late", "greater than or equal to 60"),
    ({"on": {"late": "soon"}}, "on.late", "soon"),
    ({"on": {"slowed": 1}}, "on.slowed", "greater than 1"),
    ({"on": {"burnt": True}}, "on.burnt", "no such field"),
    ({"schedule": "missing"}, "schedule", "there is no such schedule"),
    ({"pool": "missing"}, "pool", "there is no such pool"),
    ({"job_id": "01970000-0000-7000-8000-000000000000"}, "job_id", "there is no such job"),
    ({"to": {"type": "fax"}}, "to", "fax"),
    ({"to": {"type": "webhook", "url": "ftp://example.com"}}, "to.url", "absolute URL"),
    ({"to": {"type": "email", "addresses": ["no address"]}}, "to.addresses.0", "is not an address of mail"),
    (
        {"to": {"type": "email", "addresses": ["a@example.com\nBcc: b@example.com"]}},
        "to.addresses.0",
        "is not an address of mail",
    ),
    ({"to": {"type": "email", "addresses": ["a@example.com"]}}, "to.addresses", "PIECEWORK_SMTP_HOST"),
    ({"to": {"type": "sns", "topic_arn": "arn:aws:sns:us-east-1:123456789012:x"}}, "to.topic_arn", "ALERT_TOPICS"),
    ({"quiet": {"begin": "25:00", "end": "07:00"}}, "quiet.begin", "is not a time of day"),
    ({"quiet": {"begin": "22:00", "end": "07:00", "time_zone": "Berlin"}}, "quiet.time_zone", "IANA time zone"),
    ({"repeat_seconds": 60}, "repeat_seconds", "greater than or equal to 3600"),
]


@pytest.mark.parametrize(("wrong", "field", "said"), REFUSED, ids=[str(wrong) for wrong, _, _ in REFUSED])
async def test_a_rule_that_makes_no_sense_is_refused(
    operator: httpx.AsyncClient, grid: None, wrong: dict[str, Any], field: str, said: str
) -> None:
    refused = await operator.post("/v1/alerts", json=RULE | wrong)
    assert refused.status_code == 422, refused.text
    [error] = refused.json()["errors"]
    assert error["field"].startswith(field) or field.startswith(error["field"])
    assert said in error["message"] or said in str(error["value"])


async def test_no_alert_goes_to_a_private_address(settings: ApiSettings, aws: Aws, database: Database) -> None:
    app = create_app(settings.model_copy(update={"webhook_private_addresses": False}))
    async with app.router.lifespan_context(app), await Keys(database, app).client("operator") as operator:
        for type_ in ("webhook", "slack", "teams"):
            for url in ("http://169.254.169.254/latest", "http://localhost/x", "https://example.com:22/x"):
                refused = await operator.post("/v1/alerts", json=RULE | {"to": {"type": type_, "url": url}})
                assert refused.status_code == 422 and refused.json()["errors"][0]["field"] == "to.url"


async def test_without_a_key_for_secrets_there_is_no_receiver_with_one(
    settings: ApiSettings, aws: Aws, database: Database
) -> None:
    app = create_app(settings.model_copy(update={"secret_key": None}))
    async with app.router.lifespan_context(app), await Keys(database, app).client("operator") as operator:
        for to in (WEBHOOK, SLACK):
            refused = await operator.post("/v1/alerts", json=RULE | {"to": to})
            assert refused.status_code == 409 and "PIECEWORK_SECRET_KEY" in refused.json()["detail"]


async def test_a_name_is_given_once(operator: httpx.AsyncClient) -> None:
    await ok(operator.post("/v1/alerts", json=RULE))
    other = await ok(operator.post("/v1/alerts", json=RULE | {"name": "other"}))
    assert (await operator.post("/v1/alerts", json=RULE)).status_code == 409
    renamed = await operator.patch(f"/v1/alerts/{other['alert_id']}", json={"name": "nightly"})
    assert renamed.status_code == 409 and "'nightly'" in renamed.json()["detail"]
    [found] = (await ok(operator.get("/v1/alerts?name=other")))["items"]
    assert found["alert_id"] == other["alert_id"]


async def test_a_repeated_creation_makes_one_and_tells_its_secret_again(operator: httpx.AsyncClient) -> None:
    once = {"idempotency-key": "once"}
    created = await ok(operator.post("/v1/alerts", json=RULE, headers=once))
    again = await operator.post("/v1/alerts", json=RULE, headers=once)
    assert again.headers["idempotency-replayed"] == "true" and again.json() == created
    assert created["secret"].startswith("whsec_")


async def test_secrets_are_stored_nowhere(operator: httpx.AsyncClient, database: Database) -> None:
    slack = await ok(operator.post("/v1/alerts", json=RULE | {"to": SLACK}, headers={"idempotency-key": "once"}))
    webhook = await ok(operator.post("/v1/alerts", json=RULE | {"name": "other"}, headers={"idempotency-key": "two"}))
    await ok(operator.patch(f"/v1/alerts/{webhook['alert_id']}", json={"to": WEBHOOK}))
    shown = (await operator.get("/v1/alerts")).text + (await operator.get("/v1/audit")).text
    for table in ("alerts", "audit_log", "idempotency_keys"):
        rows = await database.fetch(f"SELECT to_jsonb(t)::text AS text FROM {table} AS t")
        shown += "".join(row["text"] for row in rows)
    assert "secret-part" not in shown and webhook["secret"].removeprefix("whsec_") not in shown
    assert slack["to"] == {"type": "slack", "address": "hooks.slack.com"}


async def test_a_change_sets_what_it_names_and_leaves_the_rest(operator: httpx.AsyncClient, grid: None) -> None:
    quiet = {"begin": "22:00", "end": "07:00", "time_zone": "Europe/Berlin"}
    created = await ok(
        operator.post("/v1/alerts", json=RULE | {"pool": "default", "labels": {"team": "a"}, "quiet": quiet})
    )
    path = f"/v1/alerts/{created['alert_id']}"

    changed = await ok(operator.patch(path, json={"on": {"late": "6h"}, "pool": None, "repeat_seconds": None}))

    expected = created | {"pool": None, "repeat_seconds": None, "secret": None}
    assert {name: value for name, value in changed.items() if name != "on"} == {
        name: value for name, value in expected.items() if name != "on"
    }
    assert changed["on"]["late"] == 21_600.0 and changed["on"]["failed"] is False
    assert (await ok(operator.patch(path, json={"quiet": None, "urgent": True})))["quiet"] is None

    rotated = await ok(operator.patch(path, json={"to": WEBHOOK}))
    assert rotated["secret"] and rotated["secret"] != created["secret"]
    for wrong in ({}, {"name": None}, {"on": {}}, {"on": None}, {"paused": None}, {"schedule": "missing"}):
        assert (await operator.patch(path, json=wrong)).status_code == 422, wrong


async def test_a_key_with_a_scope_sees_its_principals_own_alerts_alone(
    keys: Keys, operator: httpx.AsyncClient, viewer: httpx.AsyncClient
) -> None:
    alert = await ok(operator.post("/v1/alerts", json=RULE))
    assert len((await ok(viewer.get("/v1/alerts")))["items"]) == 1
    async with await keys.client("viewer", principal="ben", shares=["risk"]) as scoped:
        assert (await ok(scoped.get("/v1/alerts")))["items"] == []
        for path in ("", "/messages", "/incidents"):
            assert (await scoped.get(f"/v1/alerts/{alert['alert_id']}{path}")).status_code == 404


async def test_a_change_and_a_trial_are_on_record(operator: httpx.AsyncClient) -> None:
    alert = await ok(operator.post("/v1/alerts", json=RULE))
    path = f"/v1/alerts/{alert['alert_id']}"
    await ok(operator.patch(path, json={"paused": True}))
    await ok(operator.post(f"{path}/test"))
    await ok(operator.delete(path))
    entries = (await ok(operator.get(f"/v1/audit?subject={alert['alert_id']}")))["items"]
    assert [entry["action"] for entry in entries] == ["delete_alert", "test_alert", "change_alert", "create_alert"]
    assert entries[2]["summary"] == {"name": "nightly", "changed": ["paused"]}
    assert entries[3]["summary"] == {"name": "nightly", "on": ["failed"], "to": "webhook"}
