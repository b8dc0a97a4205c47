"""Which runs of a schedule are due after time has passed, by its misfire policy."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.scheduler.loops.clock import JOBS_MAX, MISSED_MAX, DueRuns, due_runs

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def look(
    misfire: str,
    *,
    cron: str = "0 * * * *",
    next_run_at: datetime,
    now: datetime,
    since: datetime | None = None,
    put_off: bool = False,
) -> DueRuns:
    """What is due now, if schedulers have looked `since` then; not given: since now, after an outage."""
    schedule = {
        **{"misfire": misfire, "cron": cron, "time_zone": "UTC"},
        **{"not_on": [], "business_days": None, "holidays": []},
        **{"next_run_at": next_run_at, "now": now, "put_off_at": now if put_off else None},
    }
    return due_runs(schedule, since or now)


def due(misfire: str, **times: Any) -> tuple[list[datetime], datetime]:
    runs = look(misfire, **times)
    return runs.times, runs.next_run_at


def hours(*numbers: int) -> list[datetime]:
    return [NOON + timedelta(hours=n) for n in numbers]


@pytest.mark.parametrize("misfire", ["run_once", "run_all", "skip"])
def test_a_run_on_time_is_run_whatever_the_policy(misfire: str) -> None:
    assert due(misfire, next_run_at=NOON, now=NOON) == (hours(0), NOON + timedelta(hours=1))
    assert due(misfire, next_run_at=NOON, now=NOON + timedelta(seconds=59)) == (hours(0), NOON + timedelta(hours=1))


@pytest.mark.parametrize(("misfire", "runs"), [("run_once", hours(3)), ("run_all", hours(0, 1, 2, 3)), ("skip", [])])
def test_after_an_outage_the_policy_decides(misfire: str, runs: list[datetime]) -> None:
    late = NOON + timedelta(hours=3, minutes=20)

    assert due(misfire, next_run_at=NOON, now=late) == (runs, NOON + timedelta(hours=4))


def test_skip_still_runs_the_run_that_is_on_time_when_the_outage_ends() -> None:
    ends = NOON + timedelta(hours=3, seconds=30)

    assert due("skip", next_run_at=NOON, now=ends) == (hours(3), NOON + timedelta(hours=4))


def test_very_many_missed_runs_come_in_portions() -> None:
    now = NOON + timedelta(minutes=250)
    runs: list[datetime] = []
    time = NOON
    while time <= now:
        portion, time = due("run_all", cron="* * * * *", next_run_at=time, now=now)
        assert len(portion) <= JOBS_MAX
        runs += portion

    assert runs == [NOON + timedelta(minutes=n) for n in range(251)]


def test_nothing_is_due_before_its_time() -> None:
    assert due("run_all", next_run_at=NOON, now=NOON - timedelta(seconds=1)) == ([], NOON)


@pytest.mark.parametrize("misfire", ["run_once", "run_all", "skip"])
def test_what_came_due_while_schedulers_looked_runs_whatever_the_policy(misfire: str) -> None:
    late = NOON + timedelta(hours=3, minutes=20)

    runs = look(misfire, next_run_at=NOON, now=late, since=NOON + timedelta(seconds=60))

    assert (runs.times, runs.skipped) == (hours(0, 1, 2, 3), [])


def test_an_outage_before_a_long_line_skips_only_what_it_missed() -> None:
    late, up_again = NOON + timedelta(hours=3, minutes=20), NOON + timedelta(hours=1, minutes=30)

    runs = {policy: look(policy, next_run_at=NOON, now=late, since=up_again) for policy in ("skip", "run_once")}

    assert (runs["skip"].times, runs["skip"].skipped) == (hours(2, 3), hours(0, 1))
    assert runs["run_once"] == runs["skip"]


def test_what_was_put_off_counts_as_missed_once_it_is_late() -> None:
    late = NOON + timedelta(minutes=2)

    runs = look("skip", next_run_at=NOON, now=late, since=NOON - timedelta(days=1), put_off=True)

    assert (runs.times, runs.skipped) == ([], hours(0))


@pytest.mark.parametrize(("misfire", "made_up_for"), [("skip", 0), ("run_once", 1)])
def test_very_many_skipped_runs_are_counted_in_portions(misfire: str, made_up_for: int) -> None:
    now, time = NOON + timedelta(minutes=2 * MISSED_MAX + 7), NOON
    skipped: list[datetime] = []
    runs: list[datetime] = []
    while time <= now:
        portion = look(misfire, cron="* * * * *", next_run_at=time, now=now, since=now + timedelta(hours=1))
        assert len(portion.skipped) <= MISSED_MAX
        skipped, runs, time = skipped + portion.skipped, runs + portion.times, portion.next_run_at

    assert len(runs) == made_up_for
    assert skipped + runs == [NOON + timedelta(minutes=n) for n in range(2 * MISSED_MAX + 8)]
