"""Recurring submissions over HTTP."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from services.platform.database import Database
from tests.integration.api.conftest import Keys, array_job, ok

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


async def create(client: httpx.AsyncClient, **changes: Any) -> str:
    """The path of a new schedule, by its name."""
    return f"/v1/schedules/{(await ok(client.post('/v1/schedules', json=schedule(**changes))))['name']}"


async def runs(client: httpx.AsyncClient, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await ok(client.get(f"{path}/runs")))["items"]
    return found


async def test_a_schedule_is_found_by_its_name_wherever_its_id_is_asked(submitter: httpx.AsyncClient) -> None:
    created = await ok(submitter.post("/v1/schedules", json=schedule()))

    assert await ok(submitter.get("/v1/schedules/nightly")) == created
    assert (await ok(submitter.post("/v1/schedules/nightly/pause")))["schedule_id"] == created["schedule_id"]
    await ok(submitter.delete("/v1/schedules/nightly"))
    assert (await submitter.get("/v1/schedules/nightly")).status_code == 404
    like_an_id = await submitter.post("/v1/schedules", json=schedule(name=created["schedule_id"]))
    assert like_an_id.status_code == 422 and "choose another name" in like_an_id.json()["detail"]


async def test_a_schedule_runs_now_without_a_change_of_its_times(submitter: httpx.AsyncClient) -> None:
    path = await create(submitter)
    before = await ok(submitter.get(path))
    await ok(submitter.post(f"{path}/pause"))

    answers = [
        await ok(submitter.post(f"{path}/runs", json={}, headers={"Idempotency-Key": "by-hand"})) for _ in range(2)
    ]

    run, again = answers
    assert run == again, "asked twice with one key"
    assert (run["state"], run["origin"], run["job_state"]) == ("submitted", "request", "running")
    assert 0 <= run["late_seconds"] < 1
    job = await ok(submitter.get(f"/v1/jobs/{run['job_id']}"))
    assert (job["schedule_id"], job["run_at"]) == (before["schedule_id"], run["scheduled_at"])
    after = await ok(submitter.post(f"{path}/resume"))
    assert (after["next_run_at"], after["last_job_id"]) == (before["next_run_at"], run["job_id"])
    assert await runs(submitter, path) == [run]


async def test_a_run_for_a_time_takes_place_once(submitter: httpx.AsyncClient) -> None:
    path = await create(submitter)
    asked = {"scheduled_at": "2026-01-31T01:30:00Z"}

    run = await ok(submitter.post(f"{path}/runs", json=asked))
    second = await submitter.post(f"{path}/runs", json=asked)
    later = await submitter.post(f"{path}/runs", json={"scheduled_at": "2199-01-31T01:30:00Z"})

    assert run["scheduled_at"] == asked["scheduled_at"]
    assert second.status_code == 409 and "has its job already" in second.json()["detail"]
    assert later.status_code == 422 and later.json()["errors"][0]["field"] == "scheduled_at"
    assert len(await runs(submitter, path)) == 1


async def test_requests_for_one_run_at_the_same_time_make_one_job(
    submitter: httpx.AsyncClient, database: Database
) -> None:
    path = await create(submitter)
    asked = {"scheduled_at": "2026-01-31T01:30:00Z"}

    answers = await asyncio.gather(*(submitter.post(f"{path}/runs", json=asked) for _ in range(4)))

    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    assert await database.fetchval("SELECT count(*) FROM jobs WHERE schedule_id IS NOT NULL") == 1


async def test_a_schedule_that_can_not_run_says_why_when_it_is_asked_to(
    submitter: httpx.AsyncClient, database: Database
) -> None:
    path = await create(submitter)
    await database.execute("UPDATE processors SET deleted_at = now() WHERE name = 'noop'")

    refused = await submitter.post(f"{path}/runs", json={})

    await database.execute("UPDATE processors SET deleted_at = NULL")
    assert refused.status_code == 409 and "stages.0.processor" in refused.json()["detail"]
    assert await runs(submitter, path) == []


async def test_the_next_run_is_skipped_and_can_be_made_up_for(submitter: httpx.AsyncClient, database: Database) -> None:
    path = await create(submitter)
    before = await ok(submitter.get(path))

    skipped = await ok(submitter.post(f"{path}/skip"))

    assert skipped["upcoming"][:2] == before["upcoming"][1:]
    [run] = await runs(submitter, path)
    assert (run["scheduled_at"], run["state"], run["reason"]) == (before["next_run_at"], "skipped", "request")
    changed = await ok(submitter.patch(path, json={"cron": "30 2 * * *"}))
    assert changed["next_run_at"] == skipped["next_run_at"], "a change of the times does not bring it back"
    await database.execute("UPDATE schedule_runs SET scheduled_at = scheduled_at - interval '7 days'")
    [past] = await runs(submitter, path)
    made_up = await ok(submitter.post(f"{path}/runs", json={"scheduled_at": past["scheduled_at"]}))
    assert (made_up["state"], made_up["reason"]) == ("submitted", None)
    await ok(submitter.post(f"{path}/pause"))
    refused = await submitter.post(f"{path}/skip")
    assert refused.status_code == 409 and "paused" in refused.json()["detail"]


async def test_what_came_due_during_a_pause_is_on_record_as_skipped(
    submitter: httpx.AsyncClient, database: Database
) -> None:
    path = await create(submitter, cron="0 * * * *", time_zone="UTC")
    assert (await ok(submitter.post(f"{path}/pause")))["paused_at"] is not None
    hour = await database.fetchval("SELECT date_trunc('hour', now())")
    await database.execute("UPDATE schedules SET paused_at = $1", hour - timedelta(hours=2, minutes=30))
    # Paused once more, it is paused since the first time.
    await ok(submitter.post(f"{path}/pause"))

    resumed = await ok(submitter.post(f"{path}/resume"))

    assert (resumed["paused_at"], resumed["runs_skipped"]) == (None, 0)
    found = await runs(submitter, path)
    assert {(run["state"], run["reason"]) for run in found} == {("skipped", "paused")}
    due = [datetime.fromisoformat(run["scheduled_at"]) for run in found]
    assert due == [hour - timedelta(hours=n) for n in range(3)]


async def test_a_run_that_was_due_when_the_schedule_was_paused_is_on_record_too(
    submitter: httpx.AsyncClient, database: Database
) -> None:
    path = await create(submitter, cron="0 * * * *", time_zone="UTC")
    hour = await database.fetchval("UPDATE schedules SET next_run_at = date_trunc('hour', now()) RETURNING next_run_at")

    await ok(submitter.post(f"{path}/pause"))
    await ok(submitter.post(f"{path}/resume"))

    assert [datetime.fromisoformat(run["scheduled_at"]) for run in await runs(submitter, path)] == [hour]


async def test_a_change_changes_what_it_gives_and_nothing_else(submitter: httpx.AsyncClient) -> None:
    path = await create(submitter)
    before = await ok(submitter.get(path))

    renamed = await ok(submitter.patch(path, json={"name": "nightly-2", "misfire": "skip"}))

    assert renamed == before | {"name": "nightly-2", "misfire": "skip"}
    path = "/v1/schedules/nightly-2"
    moved = await ok(submitter.patch(path, json={"time_zone": "America/New_York"}))
    assert [
        datetime.fromisoformat(time).astimezone(ZoneInfo("America/New_York")).hour for time in moved["upcoming"]
    ] == [2] * 3
    job = array_job(name="other")
    assert (await ok(submitter.patch(path, json={"job": job})))["job"]["name"] == "other"
    await create(submitter)
    taken = await submitter.patch(path, json={"name": "nightly"})
    assert taken.status_code == 409 and "'nightly'" in taken.json()["detail"]


async def test_bad_changes_are_refused_by_field(submitter: httpx.AsyncClient, subtests: pytest.Subtests) -> None:
    path = await create(submitter)
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({}, "body", "give what is to change: name, cron"),
        ({"cron": "61 2 * * *"}, "cron", "write five fields"),
        ({"job": array_job(stages=[{"processor": "nope"}])}, "job.stages.0.processor", "registered: noop"),
        ({"job": array_job(run_at="2099-01-01T00:00:00Z")}, "job.run_at", "remove run_at"),
        ({"schedule": "x"}, "schedule", "there is no such field"),
    ]
    for change, field, fix in cases:
        with subtests.test(field, change=change):
            response = await submitter.patch(path, json=change)

            assert response.status_code == 422
            [error] = response.json()["errors"]
            assert error["field"] == field and fix in error["message"]


async def test_a_change_while_a_run_is_due_does_not_lose_it(submitter: httpx.AsyncClient, database: Database) -> None:
    path = await create(submitter)
    due = await database.fetchval("UPDATE schedules SET next_run_at = now() - interval '1 s' RETURNING next_run_at")

    changed = await ok(submitter.patch(path, json={"cron": "0 5 * * *"}))

    assert datetime.fromisoformat(changed["next_run_at"]) == due


async def test_a_change_of_a_paused_schedule_ends_no_pause(submitter: httpx.AsyncClient, database: Database) -> None:
    path = await create(submitter, cron="0 * * * *", time_zone="UTC")
    await ok(submitter.post(f"{path}/pause"))
    hour = await database.fetchval("SELECT date_trunc('hour', now())")
    await database.execute("UPDATE schedules SET paused_at = $1", hour - timedelta(minutes=30))

    changed = await ok(submitter.patch(path, json={"cron": "0 0 1 1 *"}))

    assert (changed["paused"], changed["next_run_at"]) == (True, None)
    assert [datetime.fromisoformat(run["scheduled_at"]) for run in await runs(submitter, path)] == [hour]


async def test_a_schedule_that_is_never_due_any_more_is_shown_and_can_be_changed(
    submitter: httpx.AsyncClient, database: Database
) -> None:
    """As one whose time zone this node does not know."""
    path = await create(submitter)
    await database.execute("UPDATE schedules SET time_zone = 'Europe/Atlantis'")

    shown = await ok(submitter.get(path))

    assert shown["upcoming"] == [shown["next_run_at"]]
    assert len((await ok(submitter.get("/v1/schedules")))["items"]) == 1
    await ok(submitter.post(f"{path}/pause"))
    for order in ("resume", "skip"):
        refused = await submitter.post(f"{path}/{order}")
        assert refused.status_code == 409, refused.text
    await ok(submitter.patch(path, json={"time_zone": "UTC"}))
    assert (await ok(submitter.post(f"{path}/resume")))["paused"] is False


# Placeholders.


async def test_a_run_has_the_times_that_its_placeholders_name(submitter: httpx.AsyncClient) -> None:
    job = {
        "name": "claims-{run_date}",
        "input": {"type": "items", "items": ["{scheduled_at:%Y/%m/%d}", "{{run_date}}"]},
        "stages": [{"processor": "noop", "params": {"since": "{previous_run_at}", "until": "{scheduled_at}"}}],
        "labels": {"month": "{run_date:%Y-%m}"},
    }
    path = await create(submitter, job=job)
    assert (await ok(submitter.get(path)))["job"]["labels"] == {"month": "{run_date:%Y-%m}"}

    run = await ok(submitter.post(f"{path}/runs", json={"scheduled_at": "2026-03-31T00:30:00Z"}))

    made = await ok(submitter.get(f"/v1/jobs/{run['job_id']}"))
    assert (made["name"], made["labels"]) == ("claims-2026-03-31", {"month": "2026-03"})
    assert made["spec"]["input"]["items"] == ["2026/03/31", "{run_date}"]
    assert made["spec"]["stages"][0]["params"] == {
        "since": "2026-03-30T02:30:00+02:00",
        "until": "2026-03-31T02:30:00+02:00",
    }


async def test_bad_placeholders_are_refused_by_field(submitter: httpx.AsyncClient, subtests: pytest.Subtests) -> None:
    path = await create(submitter)
    cases = [
        ({"name": "claims-{date}"}, "job.name", "there is no placeholder {date}"),
        ({"labels": {"month": "{run_date:%B}"}}, "job.labels.month", "is not a format"),
        ({"share": "{run_date}"}, "job.share", "no placeholder can stand here"),
        ({"name": "claims-{scheduled_at}"}, "job.name", "letters"),
        ({"input": {"type": "lines", "uri": "s3://b/{day}/x.csv"}}, "job.input.uri", "no placeholder {day}"),
    ]
    for changes, field, fix in cases:
        for request in (
            submitter.post("/v1/schedules", json=schedule(name="other", job=array_job(**changes))),
            submitter.patch(path, json={"job": array_job(**changes)}),
        ):
            with subtests.test(field, changes=changes):
                response = await request
                assert response.status_code == 422
                [error] = response.json()["errors"]
                assert error["field"] == field and fix in error["message"], error


async def test_the_limits_of_a_key_hold_for_a_job_with_placeholders(keys: Keys) -> None:
    labels = {"team": "claims"}
    async with await keys.client("submitter", shares=["finance"], labels=labels, pools=["default"]) as limited:
        job = array_job(name="claims-{run_date}", labels={"month": "{run_date:%Y-%m}"})
        path = await create(limited, job=job)
        shown = (await ok(limited.get(path)))["job"]
        assert (shown["share"], shown["labels"]) == ("finance", {"month": "{run_date:%Y-%m}", "team": "claims"})
        made = await ok(limited.post(f"{path}/runs", json={}))
        assert (await ok(limited.get(f"/v1/jobs/{made['job_id']}")))["share"] == "finance"
        other = await limited.post("/v1/schedules", json=schedule(name="x", job=job | {"share": "other"}))
        assert other.status_code == 422 and other.json()["errors"][0]["field"] == "job.share"


async def test_braces_of_a_schedule_of_an_earlier_release_stay_as_they_are(
    submitter: httpx.AsyncClient, database: Database
) -> None:
    path = await create(submitter)
    stages = [{"processor": "noop", "params": {"text": "{run_date} {input}"}}]
    await database.execute("UPDATE schedules SET template = false, job = $1", array_job(stages=stages))
    await ok(submitter.patch(path, json={"cron": "0 3 * * *"}))

    run = await ok(submitter.post(f"{path}/runs", json={}))

    made = await ok(submitter.get(f"/v1/jobs/{run['job_id']}"))
    assert made["spec"]["stages"][0]["params"] == {"text": "{run_date} {input}"}


# Overlaps.


@pytest.mark.parametrize(
    ("overlap", "second", "first"),
    [("allow", "submitted", "running"), ("queue", "waiting", "running"), ("cancel", "waiting", "cancelling")],
)
async def test_a_run_on_request_keeps_to_the_overlap_rule(
    submitter: httpx.AsyncClient, overlap: str, second: str, first: str
) -> None:
    path = await create(submitter, overlap=overlap)
    for _ in range(2):
        await ok(submitter.post(f"{path}/runs", json={}))

    assert [(run["state"], run["job_state"]) for run in await runs(submitter, path)] == [
        (second, "running" if second == "submitted" else None),
        ("submitted", first),
    ]


async def test_a_run_on_request_is_refused_where_the_overlap_rule_is_to_skip(submitter: httpx.AsyncClient) -> None:
    path = await create(submitter)
    assert (await ok(submitter.patch(path, json={"overlap": "skip"})))["overlap"] == "skip"
    await ok(submitter.post(f"{path}/runs", json={}))

    refused = await submitter.post(f"{path}/runs", json={})

    assert refused.status_code == 409 and "the overlap rule is skip" in refused.json()["detail"]
    assert len(await runs(submitter, path)) == 1


# Backfills.

JANUARY = {"since": "2026-01-01T00:00:00+01:00", "until": "2026-01-31T23:59:59+01:00"}


async def test_a_backfill_has_the_runs_of_its_range_wait(submitter: httpx.AsyncClient) -> None:
    path = await create(submitter)
    await ok(submitter.post(f"{path}/runs", json={"scheduled_at": "2026-01-31T01:30:00Z"}))

    made = await ok(submitter.post(f"{path}/backfills", json=JANUARY | {"running_max": 4}))

    assert made["runs"] == {"waiting": 30, "submitted": 0, "skipped": 0, "refused": 0}
    assert (made["running_max"], made["ended_at"], made["cancelled"]) == (4, None, False)
    assert (await ok(submitter.get(f"{path}/backfills")))["items"] == [made]
    found = await runs(submitter, path)
    assert [run["state"] for run in found] == ["submitted", *["waiting"] * 30]
    assert found[-1]["scheduled_at"] == "2026-01-01T01:30:00Z"
    assert {run["backfill_id"] for run in found[1:]} == {made["backfill_id"]}
    again = await submitter.post(f"{path}/backfills", json=JANUARY)
    assert again.status_code == 409 and "all 31 runs" in again.json()["detail"]


async def test_a_cancelled_backfill_skips_what_waits(submitter: httpx.AsyncClient) -> None:
    path = await create(submitter)
    made = await ok(submitter.post(f"{path}/backfills", json=JANUARY))

    answers = [await ok(submitter.post(f"{path}/backfills/{made['backfill_id']}/cancel")) for _ in range(2)]

    assert answers[0] == answers[1] and answers[0]["cancelled"]
    assert answers[0]["runs"] == {"waiting": 0, "submitted": 0, "skipped": 31, "refused": 0}
    other = await create(submitter, name="other")
    assert (await submitter.post(f"{other}/backfills/{made['backfill_id']}/cancel")).status_code == 404


async def test_bad_ranges_are_refused_by_field(submitter: httpx.AsyncClient, subtests: pytest.Subtests) -> None:
    path = await create(submitter)
    late = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    cases = [
        ({"until": late}, "until", "still to come"),
        ({"since": "2026-02-01T00:00:00Z"}, "since", "after `until`"),
        ({"since": "2026-01-31T12:00:00Z"}, "since", "is not due between"),
        ({"since": "2020-01-01T00:00:00Z"}, "until", "more than 1,000 runs: go until 2022-09-26T00:30:00+00:00"),
        ({"since": "1066-10-14T00:00:00Z"}, "since", "1970"),
        ({"since": "2026-01-01T00:00:00"}, "since", "timezone"),
        ({"running_max": 0}, "running_max", "1"),
    ]
    for changes, field, fix in cases:
        with subtests.test(field, changes=changes):
            response = await submitter.post(f"{path}/backfills", json=JANUARY | changes)
            assert response.status_code == 422
            [error] = response.json()["errors"]
            assert error["field"] == field and fix in error["message"], error
    assert await runs(submitter, path) == []


async def test_a_backfill_reaches_over_the_changes_of_the_clocks(submitter: httpx.AsyncClient) -> None:
    path = await create(submitter)
    for since, until, times in [
        ("2026-03-28T00:00:00+01:00", "2026-03-30T23:00:00+02:00", ["28T01:30", "29T01:00", "30T00:30"]),
        ("2025-10-25T00:00:00+02:00", "2025-10-27T23:00:00+01:00", ["25T00:30", "26T00:30", "27T01:30"]),
        ("2024-02-28T00:00:00+01:00", "2024-03-01T23:00:00+01:00", ["28T01:30", "29T01:30", "01T01:30"]),
    ]:
        made = await ok(submitter.post(f"{path}/backfills", json={"since": since, "until": until}))
        found = [run for run in await runs(submitter, path) if run["backfill_id"] == made["backfill_id"]]
        assert [run["scheduled_at"][8:16] for run in reversed(found)] == times


# Calendars.

ICAL = """BEGIN:VCALENDAR\r
VERSION:2.0\r
PRODID:-//test//EN\r
BEGIN:VEVENT\r
SUMMARY:New Year's Eve\r
DTSTART;VALUE=DATE:20201231\r
RRULE:FREQ=YEARLY\r
END:VEVENT\r
END:VCALENDAR\r
"""


async def test_a_schedule_keeps_to_its_calendar(submitter: httpx.AsyncClient) -> None:
    path = await create(submitter, cron="0 18 L 12 *", business_days="previous", ical=ICAL)

    shown = await ok(submitter.get(path))

    assert len(shown["holidays"]) in (10, 11) and {day[5:] for day in shown["holidays"]} == {"12-31"}
    for time in map(datetime.fromisoformat, shown["upcoming"]):
        local = time.astimezone(ZoneInfo("Europe/Berlin"))
        assert (local.month, local.hour) == (12, 18) and local.day in (28, 29, 30) and local.weekday() < 5
    without = await ok(submitter.patch(path, json={"ical": None, "business_days": None, "not_on": ["L 11 *"]}))
    assert (without["holidays"], without["business_days"], without["not_on"]) == ([], None, ["L 11 *"])
    assert all(datetime.fromisoformat(time).day == 31 for time in without["upcoming"])


async def test_bad_calendars_are_refused_by_field(submitter: httpx.AsyncClient, subtests: pytest.Subtests) -> None:
    path = await create(submitter)
    cases = [
        ({"not_on": ["L *"]}, "not_on.0", "write three fields"),
        ({"not_on": ["* * *"]}, "not_on", "is never due"),
        ({"business_days": "sometimes"}, "business_days", "'only', 'previous' or 'next'"),
        ({"ical": "holidays"}, "ical", "this is not iCalendar"),
    ]
    for changes, field, fix in cases:
        for request in (
            submitter.post("/v1/schedules", json=schedule(name="other", **changes)),
            submitter.patch(path, json=changes),
        ):
            with subtests.test(field, changes=changes):
                response = await request
                assert response.status_code == 422
                [error] = response.json()["errors"]
                assert error["field"] == field and fix in error["message"], error
