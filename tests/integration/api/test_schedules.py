"""Recurring submissions over HTTP."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from services.platform.database import Database
from tests.integration.api.conftest import array_job, ok

pytestmark = pytest.mark.usefixtures("grid")


def schedule(**changes: Any) -> dict[str, Any]:
    return {"name": "nightly", "cron": "30 2 * * *", "time_zone": "Europe/Berlin", "job": array_job()} | changes


async def test_a_schedule_tells_its_next_three_runs_in_its_time_zone(submitter: httpx.AsyncClient) -> None:
    created = await ok(submitter.post("/v1/schedules", json=schedule()))

    upcoming = [datetime.fromisoformat(time) for time in created["upcoming"]]
    assert len(upcoming) == 3 and created["upcoming"][0] == created["next_run_at"]
    assert datetime.now(UTC) < upcoming[0] <= datetime.now(UTC) + timedelta(hours=25)
    days = [time.astimezone(ZoneInfo("Europe/Berlin")).date() for time in upcoming]
    assert [later - earlier for earlier, later in pairwise(days)] == [timedelta(days=1)] * 2
    assert (created["misfire"], created["paused"], created["last_job_id"]) == ("run_once", False, None)
    assert created["job"]["stages"][0]["processor"] == "noop"
    assert await ok(submitter.get(f"/v1/schedules/{created['schedule_id']}")) == created
    assert (await ok(submitter.get("/v1/schedules")))["items"] == [created]


async def test_a_paused_schedule_has_no_next_run_and_a_resumed_one_looks_forward(
    submitter: httpx.AsyncClient, database: Database
) -> None:
    created = await ok(submitter.post("/v1/schedules", json=schedule()))
    path = f"/v1/schedules/{created['schedule_id']}"

    paused = await ok(submitter.post(f"{path}/pause"))
    resumed = await ok(submitter.post(f"{path}/resume"))
    # Resuming one that runs must not skip a run that is due just now.
    await database.execute("UPDATE schedules SET next_run_at = now() - interval '1 second'")
    again = await ok(submitter.post(f"{path}/resume"))

    assert (paused["paused"], paused["next_run_at"], paused["upcoming"]) == (True, None, [])
    assert resumed == created
    assert datetime.fromisoformat(again["next_run_at"]) < datetime.now(UTC)


async def test_a_deleted_schedule_is_gone_and_its_name_free(submitter: httpx.AsyncClient) -> None:
    path = f"/v1/schedules/{(await ok(submitter.post('/v1/schedules', json=schedule())))['schedule_id']}"
    taken = await submitter.post("/v1/schedules", json=schedule())

    await ok(submitter.delete(path))

    assert taken.status_code == 409 and "'nightly'" in taken.json()["detail"]
    for request in (submitter.get(path), submitter.delete(path), submitter.post(f"{path}/pause")):
        assert (await request).status_code == 404
    assert (await submitter.post("/v1/schedules", json=schedule())).status_code == 201


async def test_bad_schedules_are_refused_by_field(submitter: httpx.AsyncClient, subtests: pytest.Subtests) -> None:
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"cron": "61 2 * * *"}, "cron", "write five fields"),
        ({"cron": "0 2 * *"}, "cron", "4 fields"),
        ({"time_zone": "Mars/Olympus"}, "time_zone", "Europe/Berlin"),
        ({"misfire": "panic"}, "misfire", "run_once"),
        ({"job": array_job(stages=[{"processor": "nope"}])}, "job.stages.0.processor", "registered: noop"),
        ({"job": array_job(run_at="2099-01-01T00:00:00Z")}, "job.run_at", "remove run_at"),
        ({"job": array_job(input={"type": "lines"})}, "job.input.uri", "required"),
    ]
    for changes, field, fix in cases:
        with subtests.test(field, changes=changes):
            response = await submitter.post("/v1/schedules", json=schedule(**changes))

            assert response.status_code == 422
            [error] = response.json()["errors"]
            assert error["field"] == field and fix in error["message"]


async def test_a_schedule_that_a_newer_release_has_made_is_shown_as_it_stands(
    submitter: httpx.AsyncClient, database: Database
) -> None:
    path = f"/v1/schedules/{(await ok(submitter.post('/v1/schedules', json=schedule())))['schedule_id']}"
    newer = {"field_of_the_next_release": True, "merge": {"type": "braid"}}
    job = await database.fetchval("UPDATE schedules SET job = job || $1 RETURNING job", newer)

    assert (await ok(submitter.get(path)))["job"] == job
    assert [each["job"] for each in (await ok(submitter.get("/v1/schedules")))["items"]] == [job]
