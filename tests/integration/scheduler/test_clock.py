"""Time becomes jobs: each delayed job and each run of a schedule once, whatever stops or doubles the clock."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.engine import backfills, jobs, schedules, submission
from services.platform.database import new_id
from services.scheduler import slots
from services.scheduler.loop import Context
from services.scheduler.loops import clock
from tests.integration.engine.play import Play
from tests.integration.scheduler.conftest import drive

JOB: dict[str, Any] = {"name": "hourly", "input": {"type": "range", "count": 1}, "stages": [{"processor": "noop"}]}


async def add_schedule(play: Play, *, hours_late: float = 0.01, **changes: Any) -> UUID:
    """An hourly schedule, due for this many hours."""
    row: dict[str, Any] = {
        "schedule_id": new_id(),
        "name": f"schedule-{new_id()}",
        "cron": "0 * * * *",
        "time_zone": "UTC",
        "misfire": "run_once",
        "job": JOB,
        "next_run_at": await on_the_hour(play) - timedelta(hours=int(hours_late)),
    } | changes
    places = ", ".join(f"${n}" for n in range(1, len(row) + 1))
    await play.database.execute(f"INSERT INTO schedules ({', '.join(row)}) VALUES ({places})", *row.values())
    schedule_id: UUID = row["schedule_id"]
    return schedule_id


async def on_the_hour(play: Play) -> datetime:
    """The last full hour."""
    now: datetime = await play.database.fetchval("SELECT date_trunc('hour', now())")
    return now


async def tick(context: Context) -> None:
    """Steps until the clock has nothing more to do now."""
    while await clock.step(context):
        pass


async def runs(play: Play, schedule_id: UUID) -> list[datetime]:
    rows = await play.database.fetch(
        "SELECT run_at, state FROM jobs WHERE schedule_id = $1 ORDER BY run_at", schedule_id
    )
    assert {row["state"] for row in rows} <= {"running"}
    return [row["run_at"] for row in rows]


async def decided(play: Play, schedule_id: UUID) -> dict[datetime, tuple[str, str | None]]:
    """The state and the reason of each run on record."""
    rows = await play.database.fetch("SELECT * FROM schedule_runs WHERE schedule_id = $1", schedule_id)
    return {row["scheduled_at"]: (row["state"], row["reason"]) for row in rows}


async def schedule(play: Play, schedule_id: UUID) -> dict[str, Any]:
    row = await play.database.fetchrow("SELECT * FROM schedules WHERE schedule_id = $1", schedule_id)
    assert row is not None
    return dict(row)


async def test_a_delayed_job_starts_when_its_time_has_come(context: Context, play: Play) -> None:
    job_id = await play.submit(run_at=datetime(2099, 1, 1, tzinfo=UTC))
    assert not await clock.step(context)
    assert (await play.job(job_id))["state"] == "scheduled"

    await play.database.execute("UPDATE jobs SET run_at = now()")
    await clock.step(context)

    job = await play.job(job_id)
    assert (job["state"], (await play.stage(job_id))["state"]) == ("running", "running")
    assert job["started_at"] >= job["run_at"]


async def test_a_due_schedule_submits_its_job_and_knows_its_next_time(context: Context, play: Play) -> None:
    schedule_id = await add_schedule(play)
    await tick(context)

    hour = await on_the_hour(play)
    assert await runs(play, schedule_id) == [hour]
    row = await schedule(play, schedule_id)
    assert (row["last_run_at"], row["next_run_at"], row["error"]) == (hour, hour + timedelta(hours=1), None)
    assert (await play.job(row["last_job_id"]))["name"] == "hourly"
    await tick(context)
    assert len(await runs(play, schedule_id)) == 1


@pytest.mark.parametrize(("misfire", "missed"), [("run_all", [3, 2, 1, 0]), ("run_once", [0])])
async def test_after_an_outage_missed_runs_follow_the_policy(
    context: Context, play: Play, misfire: str, missed: list[int]
) -> None:
    schedule_id = await add_schedule(play, hours_late=3, misfire=misfire)
    await tick(context)

    hour = await on_the_hour(play)
    assert await runs(play, schedule_id) == [hour - timedelta(hours=n) for n in missed]
    assert await decided(play, schedule_id) == {
        hour - timedelta(hours=n): ("submitted", None) if n in missed else ("skipped", "missed") for n in range(4)
    }


async def test_a_schedule_that_skips_misses_no_later_run(context: Context, play: Play) -> None:
    schedule_id = await add_schedule(play, hours_late=3, misfire="skip")
    await play.database.execute("UPDATE schedules SET cron = '0 0 1 1 *', next_run_at = date_trunc('year', now())")
    await tick(context)

    assert await runs(play, schedule_id) == []
    row = await schedule(play, schedule_id)
    assert row["next_run_at"] == row["created_at"].replace(
        year=row["created_at"].year + 1, month=1, day=1, hour=0, minute=0, second=0, microsecond=0
    )
    assert row["last_run_at"] is None


async def test_each_run_has_its_own_times(context: Context, play: Play) -> None:
    job = JOB | {"name": "of-{scheduled_at:%Y%m%d-%H}", "labels": {"since": "{previous_run_at:%H}"}}
    schedule_id = await add_schedule(play, hours_late=2, misfire="run_all", job=job, template=True)
    await tick(context)

    jobs = await play.database.fetch("SELECT name, labels, run_at FROM jobs WHERE schedule_id = $1", schedule_id)
    assert len(jobs) == 3
    for made in jobs:
        before = made["run_at"] - timedelta(hours=1)
        assert (made["name"], made["labels"]) == (f"of-{made['run_at']:%Y%m%d-%H}", {"since": f"{before:%H}"})


async def test_two_schedulers_make_one_job_of_each_run(context: Context, other: Context, play: Play) -> None:
    schedules = [await add_schedule(play, hours_late=5, misfire="run_all") for _ in range(4)]

    await asyncio.gather(*(tick(each) for each in (context, other, context, other)))

    for schedule_id in schedules:
        assert len(await runs(play, schedule_id)) == 6


async def test_a_run_that_has_its_job_gets_no_other(context: Context, play: Play) -> None:
    """Such as after the schedule's row was restored from a backup."""
    schedule_id = await add_schedule(play, hours_late=3, misfire="run_all")
    before = await schedule(play, schedule_id)
    await tick(context)
    await play.database.execute("UPDATE schedules SET next_run_at = $1", before["next_run_at"])

    await tick(context)

    assert len(await runs(play, schedule_id)) == 4
    assert (await schedule(play, schedule_id))["error"] is None


async def test_a_run_whose_job_an_earlier_release_has_submitted_gets_no_other(context: Context, play: Play) -> None:
    """It has no record but its job."""
    schedule_id = await add_schedule(play)
    await tick(context)
    await play.database.execute("DELETE FROM schedule_runs")
    await play.database.execute("UPDATE schedules SET next_run_at = $1", await on_the_hour(play))

    await tick(context)

    assert len(await runs(play, schedule_id)) == 1
    assert (await schedule(play, schedule_id))["error"] is None


async def test_a_run_that_was_skipped_on_request_stays_skipped(context: Context, play: Play) -> None:
    """Even if the schedule comes to its time again."""
    schedule_id = await add_schedule(play, hours_late=1, misfire="run_all")
    hour = await on_the_hour(play)
    async with play.database.acquire() as connection:
        await schedules.record_skipped(connection, schedule_id, [hour - timedelta(hours=1)], "request")

    await tick(context)

    assert await runs(play, schedule_id) == [hour]


async def test_only_the_latest_runs_stay_on_record(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "KEPT_RUNS", 3)
    schedule_id = await add_schedule(play, hours_late=9, misfire="run_all")
    await tick(context)

    hour = await on_the_hour(play)
    assert sorted(await decided(play, schedule_id)) == [hour - timedelta(hours=n) for n in (2, 1, 0)]
    assert len(await runs(play, schedule_id)) == 10


async def test_a_clock_that_dies_between_two_runs_makes_each_once(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule_id = await add_schedule(play, hours_late=3, misfire="run_all")
    left = 2

    class Killed(BaseException):
        pass

    async def submit_or_die(*arguments: Any, **keywords: Any) -> UUID:
        nonlocal left
        left -= 1
        if not left:
            raise Killed
        return await submission.submit_job(*arguments, **keywords)

    with monkeypatch.context() as dying:
        dying.setattr(schedules, "submit_job", submit_or_die)
        with pytest.raises(Killed):
            await clock.step(context)
    assert await runs(play, schedule_id) == []

    await tick(context)

    assert len(await runs(play, schedule_id)) == 4


async def test_a_paused_schedule_submits_nothing(context: Context, play: Play) -> None:
    schedule_id = await add_schedule(play, paused=True)
    await tick(context)
    assert await runs(play, schedule_id) == []


BROKEN: list[tuple[dict[str, Any], str]] = [
    (JOB | {"stages": [{"processor": "gone"}]}, "stages.0.processor.*no such processor"),
    (JOB | {"stages": [{"processor": "noop", "pool": "gone"}]}, "stages.0.pool.*no such pool"),
    (JOB | {"stages": [{"processor": "odd"}]}, "nested too deeply"),
    ({"no": "job"}, "validation errors"),
]


@pytest.mark.parametrize(("job", "why"), BROKEN)
async def test_a_job_that_can_not_be_submitted_is_an_error_of_its_own_schedule_only(
    context: Context, play: Play, job: dict[str, Any], why: str
) -> None:
    await play.database.execute(
        "INSERT INTO processors (name, version, spec) VALUES ('odd', 1, $1)",
        {"builtin": "noop", "params_schema": {"$ref": "#"}},
    )
    hour = await on_the_hour(play)
    broken = await add_schedule(play, hours_late=2, job=job)
    fine = await add_schedule(play)

    await tick(context)

    row = await schedule(play, broken)
    assert (await runs(play, broken), row["next_run_at"], row["paused"]) == ([], hour + timedelta(hours=1), False)
    assert await play.database.fetchval("SELECT $1 ~ $2", row["error"], why), row["error"]
    refused = await play.database.fetchrow("SELECT * FROM schedule_runs WHERE state = 'refused'")
    assert (refused["schedule_id"], refused["scheduled_at"], refused["error"]) == (broken, hour, row["error"])
    assert await runs(play, fine) == [hour]

    await play.database.execute("UPDATE schedules SET job = $1, next_run_at = $2", JOB, hour - timedelta(hours=1))
    await tick(context)
    assert (await schedule(play, broken))["error"] is None
    assert len(await runs(play, broken)) == 1


async def test_a_schedule_of_the_next_release_runs_without_the_fields_that_this_one_does_not_know(
    context: Context, play: Play
) -> None:
    readable = await add_schedule(play, job=JOB | {"field_of_the_next_release": True})
    unreadable = await add_schedule(play, job=JOB | {"merge": {"type": "braid"}})

    await tick(context)

    assert len(await runs(play, readable)) == 1
    assert (await schedule(play, readable))["error"] is None
    assert await runs(play, unreadable) == []
    assert "merge" in (await schedule(play, unreadable))["error"]


@pytest.mark.parametrize("changes", [{"time_zone": "Europe/Atlantis"}, {"cron": "every day"}])
async def test_a_schedule_that_does_not_know_its_next_time_is_paused_and_says_why(
    context: Context, play: Play, changes: dict[str, Any]
) -> None:
    broken = await add_schedule(play, hours_late=2, **changes)
    fine = await add_schedule(play)

    await tick(context)

    row = await schedule(play, broken)
    assert (row["paused"], row["next_run_at"], await runs(play, broken)) == (True, None, [])
    assert next(iter(changes.values())) in row["error"]
    assert len(await runs(play, fine)) == 1


# Lines and gaps.


async def look_since(play: Play, since: timedelta, last: timedelta = timedelta(0)) -> None:
    """Schedulers have looked for this long, the last time so long ago."""
    await play.database.execute(
        "UPDATE clock SET looking_since = now() - $1::interval, looked_at = now() - $2::interval", since, last
    )


async def test_a_run_that_came_due_while_schedulers_looked_is_not_skipped_however_late_it_is(
    context: Context, play: Play
) -> None:
    await look_since(play, timedelta(days=1))
    schedule_id = await add_schedule(play, hours_late=3, misfire="skip")

    await tick(context)

    hour = await on_the_hour(play)
    assert await runs(play, schedule_id) == [hour - timedelta(hours=n) for n in (3, 2, 1, 0)]
    row = await schedule(play, schedule_id)
    assert (row["runs_skipped"], row["last_skipped_at"]) == (0, None)


@pytest.mark.parametrize(("misfire", "skipped"), [("skip", 12), ("run_once", 11), ("run_all", 0)])
async def test_a_run_that_was_missed_while_nobody_looked_is_recorded_if_it_is_skipped(
    context: Context, play: Play, misfire: str, skipped: int
) -> None:
    await look_since(play, timedelta(days=1), timedelta(hours=12))
    last = await play.database.fetchval("SELECT date_trunc('minute', now()) - interval '2 minutes'")
    schedule_id = await add_schedule(
        play, misfire=misfire, cron=f"{last:%M} * * * *", next_run_at=last - timedelta(hours=11)
    )

    await tick(context)

    row = await schedule(play, schedule_id)
    assert (row["runs_skipped"], len(await runs(play, schedule_id))) == (skipped, 12 - skipped)
    expected = {"skip": last, "run_once": last - timedelta(hours=1), "run_all": None}[misfire]
    assert row["last_skipped_at"] == expected


async def test_hundreds_of_schedules_that_are_due_together_all_run(
    context: Context, other: Context, play: Play
) -> None:
    """Though the line is longer than what counts as missed."""
    await look_since(play, timedelta(days=1))
    row = await schedule(play, await add_schedule(play, misfire="skip", cron="0 0 1 1 *"))
    due = await play.database.fetchval("SELECT now() - interval '5 minutes'")
    names = [name for name in row if name not in ("schedule_id", "name", "next_run_at")]
    await play.database.execute(
        f"INSERT INTO schedules (schedule_id, name, next_run_at, {', '.join(names)}) "
        f"SELECT gen_random_uuid(), 'schedule ' || n, $1, {', '.join(names)} "
        "FROM generate_series(1, 399) AS n, schedules",
        due,
    )

    await asyncio.gather(tick(context), tick(other))

    assert await play.database.fetchval("SELECT count(*) FROM jobs") == 400
    assert await play.database.fetchval("SELECT count(DISTINCT schedule_id) FROM jobs") == 400
    assert await play.database.fetchval("SELECT sum(runs_skipped)::integer FROM schedules") == 0


async def test_schedules_whose_submission_hangs_hold_up_no_other(
    impatient: None, context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = [
        await add_schedule(play, hours_late=2, job=JOB | {"name": "hangs"}) for _ in range(clock.RUNS_AT_ONCE // 2)
    ]
    failing = [await add_schedule(play, hours_late=2, job=JOB | {"name": "fails"}) for _ in range(clock.RUNS_AT_ONCE)]
    fine = await add_schedule(play)

    async def submit(connection: Any, spec: Any, **keywords: Any) -> UUID:
        if spec.name == "hangs":
            await asyncio.Event().wait()
        if spec.name == "fails":
            raise asyncpg.LockNotAvailableError
        return await submission.submit_job(connection, spec, **keywords)

    monkeypatch.setattr(schedules, "submit_job", submit)

    async def ran() -> bool:
        return bool(await runs(play, fine))

    async def look(_: Context) -> bool:
        with contextlib.suppress(asyncpg.LockNotAvailableError):
            return await clock.step(context)
        return True

    await drive(context, look, until=ran)
    await context.slots["clock"].stop()
    for schedule_id in (*hanging, *failing):
        assert await runs(play, schedule_id) == []
    monkeypatch.setattr(schedules, "submit_job", submission.submit_job)
    monkeypatch.setattr(slots, "PATIENCE_SECONDS", 60.0)
    context.slots.clear()
    await tick(context)
    for schedule_id in (*hanging, *failing):
        assert len(await runs(play, schedule_id)) == 1


# Quotas.


async def limit_jobs(play: Play, jobs_max: int) -> None:
    await play.database.execute(
        "INSERT INTO shares (name, quotas) VALUES ('default', $1) ON CONFLICT (name) DO UPDATE SET quotas = $1",
        {"jobs_max": jobs_max},
    )


async def end_put_off(play: Play) -> None:
    await play.database.execute("UPDATE schedules SET put_off_at = put_off_at - interval '1 hour'")


async def test_a_run_over_a_quota_is_put_off_and_says_so_and_holds_up_no_other(context: Context, play: Play) -> None:
    await limit_jobs(play, 1)
    full = await add_schedule(play, hours_late=3, misfire="run_all")
    elsewhere = await add_schedule(play, job=JOB | {"share": "elsewhere"})

    await tick(context)

    assert len(await runs(play, full)) == 1
    assert len(await runs(play, elsewhere)) == 1
    assert "is put off: the share 'default' has the quota jobs_max = 1" in (await schedule(play, full))["error"]
    await limit_jobs(play, 10)
    await tick(context)
    assert len(await runs(play, full)) == 1, "not again at once"
    await end_put_off(play)
    await tick(context)
    now = await on_the_hour(play)
    assert await runs(play, full) == [now - timedelta(hours=n) for n in (3, 2, 1, 0)], "none is lost"
    row = await schedule(play, full)
    assert (row["error"], row["put_off_at"]) == (None, None)


async def test_a_run_that_was_put_off_until_it_counts_as_missed_says_why(context: Context, play: Play) -> None:
    await limit_jobs(play, 0)
    now = await play.database.fetchval("SELECT date_trunc('minute', now())")
    late = await add_schedule(play, misfire="skip", cron="* * * * *", next_run_at=now)
    await tick(context)
    why = (await schedule(play, late))["error"]
    assert "is put off" in why

    hour_ago = now - timedelta(hours=1)
    await play.database.execute("UPDATE schedules SET next_run_at = $1, cron = '0 0 1 1 *'", hour_ago)
    await end_put_off(play)
    await tick(context)

    assert await runs(play, late) == []
    assert (await schedule(play, late))["error"] == why


# Overlaps.


async def end_jobs(play: Play, schedule_id: UUID) -> None:
    await play.database.execute(
        "UPDATE jobs SET state = CASE state WHEN 'cancelling' THEN 'cancelled' ELSE 'succeeded' END, "
        "finished_at = now() WHERE schedule_id = $1 AND state IN ('running', 'cancelling')",
        schedule_id,
    )


async def states(play: Play, schedule_id: UUID) -> list[str]:
    rows = await play.database.fetch(
        "SELECT r.state, r.reason, j.state AS job FROM schedule_runs AS r LEFT JOIN jobs AS j USING (job_id) "
        "WHERE r.schedule_id = $1 ORDER BY scheduled_at",
        schedule_id,
    )
    return [" ".join(filter(None, row.values())) for row in rows]


# What each rule makes of four runs that are due together; then, after the end of the jobs that ran, twice.
OVERLAPS = [
    ("allow", ["submitted running"] * 4, ["submitted succeeded"] * 4, ["submitted succeeded"] * 4),
    (
        "skip",
        ["submitted running", *["skipped overlap"] * 3],
        ["submitted succeeded", *["skipped overlap"] * 3],
        ["submitted succeeded", *["skipped overlap"] * 3],
    ),
    (
        "queue",
        ["submitted running", *["waiting overlap"] * 3],
        ["submitted succeeded", "submitted running", *["waiting overlap"] * 2],
        ["submitted succeeded", "submitted succeeded", "submitted running", "waiting overlap"],
    ),
    (
        "cancel",
        ["submitted cancelling", *["skipped overlap"] * 2, "waiting overlap"],
        ["submitted cancelled", *["skipped overlap"] * 2, "submitted running"],
        ["submitted cancelled", *["skipped overlap"] * 2, "submitted succeeded"],
    ),
]


@pytest.mark.parametrize(("overlap", "first", "then", "last"), OVERLAPS)
async def test_runs_that_overlap_do_as_the_rule_says(
    context: Context, other: Context, play: Play, overlap: str, first: list[str], then: list[str], last: list[str]
) -> None:
    schedule_id = await add_schedule(play, hours_late=3, misfire="run_all", overlap=overlap)
    for expected in (first, then, last):
        await asyncio.gather(tick(context), tick(other))
        assert await states(play, schedule_id) == expected
        await end_jobs(play, schedule_id)


async def test_a_run_that_would_cancel_a_job_which_ends_at_that_moment_begins(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule_id = await add_schedule(play, overlap="cancel")
    await tick(context)
    await play.database.execute("UPDATE schedules SET next_run_at = now()")

    async def end_and_cancel(*arguments: Any) -> None:
        await end_jobs(play, schedule_id)
        await jobs.cancel_job(*arguments)

    monkeypatch.setattr(schedules, "cancel_job", end_and_cancel)
    await tick(context)

    assert await states(play, schedule_id) == ["submitted succeeded", "submitted running"]


async def test_the_last_run_is_the_last_one_that_has_a_job(context: Context, play: Play) -> None:
    hour = await on_the_hour(play)
    schedule_id = await add_schedule(play, hours_late=2, misfire="run_all", overlap="queue")
    await tick(context)
    last_runs = [(await schedule(play, schedule_id))["last_run_at"]]
    for _ in range(2):
        await end_jobs(play, schedule_id)
        await tick(context)
        last_runs.append((await schedule(play, schedule_id))["last_run_at"])

    assert last_runs == [hour - timedelta(hours=n) for n in (2, 1, 0)]
    last_job_id = (await schedule(play, schedule_id))["last_job_id"]
    assert (await play.job(last_job_id))["run_at"] == hour
    await backfill(play, schedule_id, hours=5, running_max=5)
    await tick(context)
    assert (await schedule(play, schedule_id))["last_job_id"] == last_job_id


async def test_a_full_queue_of_runs_skips_further_ones(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "WAITING_MAX", 1)
    schedule_id = await add_schedule(play, hours_late=3, misfire="run_all", overlap="queue")
    await tick(context)
    assert await states(play, schedule_id) == ["submitted running", "waiting overlap", *["skipped overlap"] * 2]


async def test_a_waiting_run_is_held_by_a_pause_and_is_let_go_by_a_rule_that_allows(
    context: Context, play: Play
) -> None:
    schedule_id = await add_schedule(play, hours_late=1, misfire="run_all", overlap="queue")
    await tick(context)
    assert await states(play, schedule_id) == ["submitted running", "waiting overlap"]
    await play.database.execute("UPDATE schedules SET overlap = 'allow', paused = true")
    await tick(context)
    assert await states(play, schedule_id) == ["submitted running", "waiting overlap"]
    await play.database.execute("UPDATE schedules SET paused = false")
    await tick(context)
    assert await states(play, schedule_id) == ["submitted running"] * 2


async def test_a_waiting_run_that_dies_as_it_begins_begins_once(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule_id = await add_schedule(play, hours_late=1, misfire="run_all", overlap="queue")
    await tick(context)
    await end_jobs(play, schedule_id)

    class Killed(BaseException):
        pass

    async def submit_and_die(*arguments: Any, **keywords: Any) -> UUID:
        await submission.submit_job(*arguments, **keywords)
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(schedules, "submit_job", submit_and_die)
        with pytest.raises(Killed):
            await clock.step(context)
    assert await states(play, schedule_id) == ["submitted succeeded", "waiting overlap"]

    await tick(context)

    assert await states(play, schedule_id) == ["submitted succeeded", "submitted running"]


async def test_a_waiting_run_over_a_quota_waits_on_and_says_so(context: Context, play: Play) -> None:
    schedule_id = await add_schedule(play, hours_late=1, misfire="run_all", overlap="queue")
    await tick(context)
    await end_jobs(play, schedule_id)
    await limit_jobs(play, 0)
    await tick(context)
    assert await states(play, schedule_id) == ["submitted succeeded", "waiting overlap"]
    assert "is put off" in (await schedule(play, schedule_id))["error"]
    await limit_jobs(play, 10)
    await end_put_off(play)
    await tick(context)
    assert await states(play, schedule_id) == ["submitted succeeded", "submitted running"]
    assert (await schedule(play, schedule_id))["error"] is None


async def test_a_waiting_run_whose_job_is_refused_holds_up_no_other(context: Context, play: Play) -> None:
    schedule_id = await add_schedule(play, hours_late=2, misfire="run_all", overlap="queue")
    await tick(context)
    await end_jobs(play, schedule_id)
    await play.database.execute("UPDATE schedules SET job = $1", JOB | {"stages": [{"processor": "gone"}]})
    await tick(context)
    assert await states(play, schedule_id) == ["submitted succeeded", "refused", "refused"]


# Calendars.


async def test_the_clock_keeps_to_the_schedules_calendar(context: Context, play: Play) -> None:
    """A run that is due already takes place; those on the holidays that follow do not."""
    hour = await on_the_hour(play)
    holidays = [hour.date() + timedelta(days=n) for n in (-1, 0, 1)]
    schedule_id = await add_schedule(play, hours_late=3, misfire="run_all", not_on=["holidays"], holidays=holidays)
    await tick(context)
    assert await runs(play, schedule_id) == [hour - timedelta(hours=3)]
    midnight = hour.replace(hour=0) + timedelta(days=2)
    assert (await schedule(play, schedule_id))["next_run_at"] == midnight


# Backfills.


async def backfill(play: Play, schedule_id: UUID, *, hours: int, running_max: int) -> UUID:
    """Of the last hours of an hourly schedule."""
    async with play.database.acquire() as connection:
        row = await connection.fetchrow("SELECT *, now() AS now FROM schedules WHERE schedule_id = $1", schedule_id)
        assert row is not None
        hour = await on_the_hour(play)
        since = hour - timedelta(hours=hours - 1)
        return await backfills.create_backfill(connection, row, since, hour, running_max, "anna")


async def running_jobs(play: Play) -> int:
    count: int = await play.database.fetchval("SELECT count(*) FROM jobs WHERE state = 'running'")
    return count


async def test_a_backfill_runs_each_time_once_and_never_more_at_once_than_it_may(
    context: Context, other: Context, play: Play
) -> None:
    hour = await on_the_hour(play)
    schedule_id = await add_schedule(play, next_run_at=hour + timedelta(hours=1), overlap="skip")
    await backfill(play, schedule_id, hours=7, running_max=3)
    order = []
    for _ in range(3):
        await asyncio.gather(*(tick(each) for each in (context, other)))
        order.append(await running_jobs(play))
        await end_jobs(play, schedule_id)

    assert order == [3, 3, 1]
    assert await runs_at(play, schedule_id) == [hour - timedelta(hours=n) for n in reversed(range(7))]
    ended = await play.database.fetchrow("SELECT * FROM schedule_backfills")
    assert ended["ended_at"] is not None and not ended["cancelled"]


async def runs_at(play: Play, schedule_id: UUID) -> list[datetime]:
    rows = await play.database.fetch("SELECT run_at FROM jobs WHERE schedule_id = $1 ORDER BY job_id", schedule_id)
    return [row["run_at"] for row in rows]


async def test_a_backfill_goes_on_where_a_scheduler_died(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = await on_the_hour(play)
    schedule_id = await add_schedule(play, next_run_at=hour + timedelta(hours=1))
    await backfill(play, schedule_id, hours=5, running_max=10)
    left = 3

    class Killed(BaseException):
        pass

    async def submit_or_die(*arguments: Any, **keywords: Any) -> UUID:
        nonlocal left
        left -= 1
        job_id = await submission.submit_job(*arguments, **keywords)
        if not left:
            raise Killed
        return job_id

    with monkeypatch.context() as dying:
        dying.setattr(schedules, "submit_job", submit_or_die)
        with pytest.raises(Killed):
            await tick(context)
    assert await running_jobs(play) == 2

    await tick(context)

    assert await runs(play, schedule_id) == [hour - timedelta(hours=n) for n in reversed(range(5))]


async def test_a_backfill_makes_up_for_what_was_skipped_or_refused_and_for_nothing_else(
    context: Context, play: Play
) -> None:
    hour = await on_the_hour(play)
    schedule_id = await add_schedule(play, hours_late=3)
    await tick(context)
    before = await decided(play, schedule_id)
    assert [before[hour - timedelta(hours=n)][0] for n in range(4)] == ["submitted", *["skipped"] * 3]
    async with play.database.acquire() as connection:
        await schedules.record_refused(connection, schedule_id, hour - timedelta(hours=4), "no such processor")
    # Of an earlier release there is only the job.
    await play.database.execute("DELETE FROM schedule_runs WHERE state = 'submitted'")

    await backfill(play, schedule_id, hours=6, running_max=10)
    await tick(context)

    assert await runs(play, schedule_id) == [hour - timedelta(hours=n) for n in reversed(range(6))]
    made = await play.database.fetchval("SELECT count(*) FROM schedule_runs WHERE origin = 'backfill'")
    assert made == 5


async def test_a_backfill_does_not_count_for_the_overlap_rule_and_no_pause_holds_it(
    context: Context, play: Play
) -> None:
    hour = await on_the_hour(play)
    schedule_id = await add_schedule(play, overlap="cancel", paused=True, paused_at=hour)
    await play.database.execute("UPDATE schedules SET next_run_at = NULL")
    await backfill(play, schedule_id, hours=2, running_max=1)
    await tick(context)
    assert await states(play, schedule_id) == ["submitted running", "waiting"]

    due = hour + timedelta(seconds=1)
    await play.database.execute("UPDATE schedules SET paused = false, next_run_at = $1, cron = '0 0 1 1 *'", due)
    await tick(context)

    assert await states(play, schedule_id) == ["submitted running", "waiting", "submitted running"]
    await end_jobs(play, schedule_id)
    await tick(context)
    assert await states(play, schedule_id) == ["submitted succeeded", "submitted running", "submitted succeeded"]


async def test_a_run_of_a_cancelled_backfill_that_is_asked_for_waits_for_its_turn_alone(
    context: Context, play: Play
) -> None:
    hour = await on_the_hour(play)
    schedule_id = await add_schedule(play, overlap="queue")
    await tick(context)
    backfill_id = await backfill(play, schedule_id, hours=2, running_max=1)
    async with play.database.acquire() as connection:
        row = await schedule(play, schedule_id)
        await backfills.cancel_backfill(connection, row, backfill_id)
        asked = {"origin": "request", "instead_of": ("skipped",)}
        await schedules.begin_run(connection, play.settings, row, hour - timedelta(hours=1), **asked)
    assert await states(play, schedule_id) == ["waiting overlap", "submitted running"]

    await end_jobs(play, schedule_id)
    await tick(context)

    assert await states(play, schedule_id) == ["submitted running", "submitted succeeded"]


async def test_a_run_of_a_backfill_whose_job_is_refused_holds_up_no_other(context: Context, play: Play) -> None:
    hour = await on_the_hour(play)
    broken = JOB | {"stages": [{"processor": "gone"}]}
    schedule_id = await add_schedule(play, next_run_at=hour + timedelta(hours=1), job=broken)
    await backfill(play, schedule_id, hours=3, running_max=1)
    await tick(context)
    assert await states(play, schedule_id) == ["refused"] * 3
    assert "no such processor" in (await schedule(play, schedule_id))["error"]
    assert await play.database.fetchval("SELECT ended_at IS NOT NULL FROM schedule_backfills")
