"""Which runs of a schedule are due after time has passed, by its misfire policy."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.scheduler.loops.clock import JOBS_MAX, due_times

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def due(misfire: str, *, cron: str = "0 * * * *", next_run_at: datetime, now: datetime) -> Any:
    schedule = {"misfire": misfire, "cron": cron, "time_zone": "UTC", "next_run_at": next_run_at, "now": now}
    return due_times(schedule)


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
