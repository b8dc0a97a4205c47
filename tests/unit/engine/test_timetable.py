"""Timetables (services.engine.timetable): the times of a cron expression on the days that a calendar leaves."""

from datetime import UTC, date, datetime, timedelta
from itertools import islice, takewhile
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engine.timetable import Timetable
from services.platform.cron import check_days, due_times, matches_day

ZONE = "Europe/Berlin"
CHANGES = [datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)]
CRONS = ["30 2 * * *", "0,59 2,3 * * *", "15 0-5 * * *", "*/7 * * * *", "10 * * * *", "* 2 * * *"]
CHRISTMAS = frozenset(
    {date(2026, 12, 24), date(2026, 12, 25), date(2026, 12, 26), date(2026, 12, 31), date(2027, 1, 1)}
)


def due(cron: str, after: str, count: int, zone: str = ZONE, **rules: Any) -> list[str]:
    """The next local times after a local one."""
    times = Timetable(cron, zone, **rules).times(datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone)))
    return [time.astimezone(ZoneInfo(zone)).strftime("%a %Y-%m-%d %H:%M") for time in islice(times, count)]


def test_every_day_but_the_last_of_the_month() -> None:
    assert due("0 2 * * *", "2028-02-26 12:00", 4, not_on=("L * *",)) == [
        "Sun 2028-02-27 02:00",
        "Mon 2028-02-28 02:00",
        "Wed 2028-03-01 02:00",
        "Thu 2028-03-02 02:00",
    ]


def test_not_at_weekends_nor_on_holidays() -> None:
    rules: dict[str, Any] = {"not_on": ("* * SAT,SUN", "holidays"), "holidays": CHRISTMAS}
    expected = ["Wed 2026-12-23 06:00", "Mon 2026-12-28 06:00", "Tue 2026-12-29 06:00", "Wed 2026-12-30 06:00"]
    assert due("0 6 * * *", "2026-12-23 00:00", 4, **rules) == expected
    assert due("0 6 * * *", "2026-12-23 00:00", 4, business_days="only", holidays=CHRISTMAS) == expected


LAST_BUSINESS_DAYS = [
    ("2026-11-01 00:00", "Mon 2026-11-30 18:00"),
    ("2026-10-01 00:00", "Fri 2026-10-30 18:00"),  # the 31st is a Saturday
    ("2026-05-01 00:00", "Fri 2026-05-29 18:00"),  # a Sunday
    ("2026-12-01 00:00", "Wed 2026-12-30 18:00"),  # a holiday
    ("2028-02-01 00:00", "Tue 2028-02-29 18:00"),  # a leap day
]


@pytest.mark.parametrize(("after", "expected"), LAST_BUSINESS_DAYS)
def test_the_last_business_day_of_the_month(after: str, expected: str) -> None:
    assert due("0 18 L * *", after, 1, business_days="previous", holidays=CHRISTMAS) == [expected]


def test_the_first_business_day_of_the_month() -> None:
    assert due("0 6 1 * *", "2026-10-15 00:00", 4, business_days="next", holidays=CHRISTMAS) == [
        "Mon 2026-11-02 06:00",
        "Tue 2026-12-01 06:00",
        "Mon 2027-01-04 06:00",
        "Mon 2027-02-01 06:00",
    ]


def test_a_run_that_moved_is_due_after_the_day_from_which_it_moved() -> None:
    assert due("0 6 1 * *", "2026-11-01 12:00", 1, business_days="next") == ["Mon 2026-11-02 06:00"]
    assert due("0 6 1 * *", "2026-11-02 06:00", 1, business_days="next") == ["Tue 2026-12-01 06:00"]


@pytest.mark.parametrize("rule", ["previous", "next"])
def test_runs_that_move_to_one_day_are_in_order_and_once(rule: str) -> None:
    """Those of Saturday and Sunday, at the same times as the others."""
    days = ["Fri 2026-11-27", "Mon 2026-11-30", "Tue 2026-12-01"]
    expected = [f"{day} {time}" for day in days for time in ("06:00", "18:00")]
    assert due("0 6,18 * * *", "2026-11-27 00:00", 6, business_days=rule) == expected


@given(st.integers(0, 24 * 60 * 20), st.sampled_from(["0 6,18 * * *", "30 */5 * * *", "0 6 1,24,25,31 * *"]))
@pytest.mark.parametrize("rule", ["previous", "next"])
def test_the_times_after_any_time_are_the_rest_of_all(rule: Any, minutes: int, cron: str) -> None:
    timetable = Timetable(cron, ZONE, business_days=rule, holidays=CHRISTMAS)
    begin, until = datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 2, 1, tzinfo=UTC)
    after = datetime(2026, 12, 18, tzinfo=UTC) + timedelta(minutes=minutes)
    every = list(takewhile(lambda time: time <= until, timetable.times(begin)))
    assert every == sorted(set(every))
    rest = list(takewhile(lambda time: time <= until, timetable.times(after)))
    assert rest == [time for time in every if time > after]


def test_a_calendar_that_leaves_nothing_is_an_error_and_found_out_soon() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    for timetable in (
        Timetable("* * * * *", ZONE, not_on=("* * *",)),
        Timetable("0 6 L * *", ZONE, not_on=("L * *",)),
        Timetable("0 6 * * SUN", ZONE, business_days="only"),
    ):
        with pytest.raises(ValueError, match="never due"):
            timetable.next(begin)
    year = frozenset(date(2026, 1, 1) + timedelta(days=n) for n in range(365))
    with pytest.raises(ValueError, match="no business day within 31 days"):
        Timetable("0 6 * * *", ZONE, business_days="next", holidays=year).next(begin)


def test_days_are_those_of_the_zone() -> None:
    """23:30 UTC is the next day in Berlin."""
    assert due("30 0 * * *", "2026-11-29 12:00", 1, not_on=("30 11 *",)) == ["Tue 2026-12-01 00:30"]


@given(st.sampled_from(CHANGES), st.integers(-300, 300), st.sampled_from(CRONS))
def test_days_that_are_left_out_leave_the_others_as_they_are(change: datetime, minutes: int, cron: str) -> None:
    after, until = change + timedelta(minutes=minutes), change + timedelta(days=2)
    every = list(takewhile(lambda time: time <= until, due_times(cron, ZONE, after)))
    without = list(takewhile(lambda time: time <= until, Timetable(cron, ZONE, ("* * SUN",)).times(after)))
    assert without == [time for time in every if time.astimezone(ZoneInfo(ZONE)).weekday() != 6]


@pytest.mark.parametrize(
    ("days", "day", "matches"),
    [
        ("L * *", date(2028, 2, 29), True),
        ("L * *", date(2028, 2, 28), False),
        ("LW * *", date(2026, 5, 29), True),
        ("* * 5L", date(2026, 11, 27), True),
        ("* * 1#2", date(2026, 11, 9), True),
        ("* * 1#2", date(2026, 11, 16), False),
        ("24-31 12 *", date(2026, 12, 24), True),
        ("24-31 12 *", date(2026, 11, 24), False),
    ],
)
def test_days_match_as_in_cron(days: str, day: date, matches: bool) -> None:
    assert matches_day(check_days(days), day) is matches


@pytest.mark.parametrize(("days", "why"), [("L *", "2 fields"), ("32 * *", "bad day-of-month"), ("", "0 fields")])
def test_days_that_are_none_say_how_to_write_them(days: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"{why}.*write three fields"):
        check_days(days)


@given(st.sampled_from(CHANGES), st.integers(-200, 2000), st.sampled_from(CRONS), st.integers(1, 9))
def test_the_last_times_are_the_end_of_all(change: datetime, minutes: int, cron: str, count: int) -> None:
    after, until = change - timedelta(days=2), change + timedelta(minutes=minutes)
    every = list(takewhile(lambda time: time <= until, due_times(cron, ZONE, after)))
    assert Timetable(cron, ZONE).last(after=after, until=until, count=count) == every[-count:]


def test_the_last_times_of_a_long_past_are_found_without_reading_all_of_it() -> None:
    after, until = datetime(1990, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    assert Timetable("* * * * *", "UTC").last(after=after, until=until, count=2) == [
        until - timedelta(minutes=1),
        until,
    ]
    assert Timetable("0 0 29 2 *", "UTC").last(after=after, until=until, count=1) == [datetime(2024, 2, 29, tzinfo=UTC)]
