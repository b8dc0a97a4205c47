"""The audit log: every change is in it, and every refused one; nobody changes it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from services.platform.auth import register_bootstrap_key
from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings
from services.scheduler.loop import Context
from services.scheduler.loops import clock, maintain
from tests.integration.api.conftest import Keys, PlayedWorker, array_job, ok
from tests.integration.api.subjects import Subjects

# POSTs that change nothing.
READS = {"preview_split"}


@pytest.fixture
async def subjects(
    keys: Keys,
    operator: httpx.AsyncClient,
    worker: PlayedWorker,
    aws: Aws,
    settings: Settings,
    database: Database,
) -> AsyncIterator[Subjects]:
    async with await keys.client("submitter", principal="anna", name="anna's laptop") as anna:
        yield Subjects(anna, operator, worker, aws, settings, database)


def changing(app: FastAPI) -> dict[str, tuple[str, str]]:
    """Every operation that may change something, with its method and its path."""
    return {
        operation["operationId"]: (method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
        if method != "get"
    }


async def test_every_operation_that_changes_something_is_in_the_log(
    app: FastAPI, operator: httpx.AsyncClient, subjects: Subjects, database: Database
) -> None:
    silent, wrong = set(), []
    for operation, (method, path) in changing(app).items():
        request = await subjects.request_of(operation, method, path)
        before = await database.fetchval("SELECT count(*) FROM audit_log")
        response = await request.send(operator, {"X-Request-Id": operation})
        assert response.is_success, f"{operation}: {response.text}"
        entries = await database.fetch("SELECT * FROM audit_log ORDER BY audit_id OFFSET $1", before)
        if not entries:
            silent.add(operation)
            continue
        [entry] = entries
        found = (entry["action"], entry["outcome"], entry["principal"], entry["role"], entry["request_id"])
        if found != (operation, "done", "test-operator", "operator", operation) or not entry["subject"]:
            wrong.append(dict(entry))

    assert silent == READS
    assert wrong == []


async def test_a_refused_change_is_in_the_log_with_its_reason(
    app: FastAPI, keys: Keys, subjects: Subjects, operator: httpx.AsyncClient
) -> None:
    job = await ok(subjects.anna.post("/v1/jobs", json=array_job()))
    async with await keys.client("submitter", principal="ben") as ben:
        refused = await ben.post(f"/v1/jobs/{job['job_id']}/cancel")
        await ben.put("/v1/pools/default", json={})
        await ben.get("/v1/api-keys")

    entries = (await ok(operator.get("/v1/audit?principal=ben")))["items"]

    assert refused.status_code == 403
    assert [(entry["action"], entry["outcome"]) for entry in entries] == [
        ("put_pool", "refused"),
        ("cancel_job", "refused"),
    ]
    assert (entries[1]["subject_kind"], entries[1]["subject"]) == ("job", job["job_id"])
    assert entries[1]["summary"]["reason"] == refused.json()["detail"]
    assert entries[1]["address"] == "127.0.0.1"


async def test_the_log_holds_no_secret(
    operator: httpx.AsyncClient, subjects: Subjects, database: Database, app: FastAPI
) -> None:
    key = await ok(operator.post("/v1/api-keys", json={"name": "x", "role": "viewer"}))
    hook = await ok(operator.post("/v1/webhook-endpoints", json={"url": "https://example.com/t0ken"}))
    spec = {"name": "secretive", "command": ["true"], "environment": {"TOKEN": "t0ken"}}
    await ok(operator.post("/v1/processors", json=spec))

    text = await database.fetchval("SELECT string_agg(audit_log::text, ' ') FROM audit_log")

    for secret in (key["secret"], hook["secret"], "t0ken"):
        assert secret not in text


async def test_the_log_is_listed_by_who_what_and_when(subjects: Subjects, operator: httpx.AsyncClient) -> None:
    job = await ok(subjects.anna.post("/v1/jobs", json=array_job()))
    await ok(subjects.anna.post(f"/v1/jobs/{job['job_id']}/pause"))
    await ok(operator.post(f"/v1/jobs/{job['job_id']}/cancel"))

    async def actions(**filters: str) -> list[str]:
        return [entry["action"] for entry in (await ok(operator.get("/v1/audit", params=filters)))["items"]]

    of_job = ["cancel_job", "pause_job", "submit_job"]
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert await actions(subject=job["job_id"]) == of_job
    assert await actions(subject=job["job_id"], principal="anna") == of_job[1:]
    assert await actions(subject=job["job_id"], action="pause_job") == ["pause_job"]
    assert await actions(subject=job["job_id"], outcome="refused") == []
    assert await actions(subject=job["job_id"], until=tomorrow) == of_job
    assert await actions(subject=job["job_id"], since=tomorrow) == []
    page = await ok(operator.get("/v1/audit", params={"subject": job["job_id"], "limit": "2"}))
    rest = await ok(
        operator.get("/v1/audit", params={"subject": job["job_id"], "limit": "2", "cursor": page["next_cursor"]})
    )
    assert [entry["action"] for entry in [*page["items"], *rest["items"]]] == of_job


async def test_what_a_schedule_submits_belongs_to_its_owner(
    subjects: Subjects, operator: httpx.AsyncClient, database: Database, aws: Aws, settings: Settings
) -> None:
    spec = {"name": "each-minute", "cron": "* * * * *", "job": array_job()}
    schedule = await ok(subjects.anna.post("/v1/schedules", json=spec))
    await database.execute("UPDATE schedules SET next_run_at = now()")

    await clock.step(Context(database, aws, settings))

    [job] = (await ok(operator.get("/v1/jobs?created_by=anna")))["items"]
    [entry] = (await ok(operator.get("/v1/audit", params={"subject": job["job_id"]})))["items"]
    assert job["schedule_id"] == schedule["schedule_id"]
    assert (entry["principal"], entry["role"], entry["key_id"]) == ("anna", "scheduler", None)
    assert entry["summary"] == {"schedule": "each-minute"}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET principal = 'nobody'",
        "DELETE FROM audit_log",
        "DELETE FROM audit_log WHERE at < now() - interval '6 days'",
        "TRUNCATE audit_log",
    ],
)
async def test_nobody_changes_the_log(database: Database, statement: str) -> None:
    await database.execute(_ENTRY, "6 days 12:00:00")

    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append only"):
        await database.execute(statement)


_ENTRY = """
    INSERT INTO audit_log (audit_id, at, role, action, outcome, subject_kind)
    VALUES (gen_random_uuid(), now() - $1::text::interval, 'operator', 'x', 'done', 'job')"""


async def test_entries_are_kept_for_as_long_as_the_setting_says(
    database: Database, aws: Aws, settings: Settings
) -> None:
    for age in ("29 days", "31 days"):
        await database.execute(_ENTRY, age)

    await maintain.step(Context(database, aws, settings.model_copy(update={"audit_days": 30})))

    assert await database.fetchval("SELECT count(*) FROM audit_log WHERE action = 'x'") == 1


async def test_the_bootstrap_key_is_in_the_log(database: Database) -> None:
    assert await register_bootstrap_key(database, "pw_first")
    assert not await register_bootstrap_key(database, "pw_second")

    [entry] = await database.fetch("SELECT * FROM audit_log")
    assert (entry["action"], entry["subject_kind"]) == ("register_bootstrap_key", "API key")
    assert entry["subject"] == str(await database.fetchval("SELECT key_id FROM api_keys"))
