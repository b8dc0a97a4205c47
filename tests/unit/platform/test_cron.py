"""Cron expressions in time zones (services.platform.cron): due when a person of that zone expects it."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.platform.cron import check_cron, check_zone, due_times, next_time


def due(cron: str, zone: str, after: str, count: int = 3) -> list[str]:
    """The next local times after a local one."""
    times = due_times(cron, zone, datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone)))
    return [next(times).astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M%z") for _ in range(count)]


def test_the_last_day_of_each_month() -> None:
    assert due("0 2 L * *", "UTC", "2028-01-31 02:00", 4) == [
        "2028-02-29 02:00+0000",
        "2028-03-31 02:00+0000",
        "2028-04-30 02:00+0000",
        "2028-05-31 02:00+0000",
    ]


def test_a_time_that_spring_skips_runs_right_after_the_gap() -> None:
    assert due("30 2 * * *", "Europe/Berlin", "2026-03-28 12:00") == [
        "2026-03-29 03:00+0200",
        "2026-03-30 02:30+0200",
        "2026-03-31 02:30+0200",
    ]
    assert due("30 2 * * *", "America/New_York", "2026-03-07 12:00", 2) == [
        "2026-03-08 03:00-0400",
        "2026-03-09 02:30-0400",
    ]


def test_a_time_that_autumn_repeats_runs_once() -> None:
    assert due("30 2 * * *", "Europe/Berlin", "2026-10-24 12:00") == [
        "2026-10-25 02:30+0200",
        "2026-10-26 02:30+0100",
        "2026-10-27 02:30+0100",
    ]
    assert due("30 1 * * *", "America/New_York", "2026-10-31 12:00", 2) == [
        "2026-11-01 01:30-0400",
        "2026-11-02 01:30-0500",
    ]


def test_every_hour_follows_elapsed_time_through_both_changes() -> None:
    assert due("0 * * * *", "Europe/Berlin", "2026-03-29 00:30") == [
        "2026-03-29 01:00+0100",
        "2026-03-29 03:00+0200",
        "2026-03-29 04:00+0200",
    ]
    assert due("0 * * * *", "Europe/Berlin", "2026-10-25 01:30") == [
        "2026-10-25 02:00+0200",
        "2026-10-25 02:00+0100",
        "2026-10-25 03:00+0100",
    ]


def test_a_day_keeps_its_local_time_through_the_year() -> None:
    times = due_times("0 6 * * *", "America/New_York", datetime(2026, 1, 1, tzinfo=UTC))
    local = [next(times).astimezone(ZoneInfo("America/New_York")) for _ in range(365)]

    assert {(time.hour, time.minute) for time in local} == {(6, 0)}
    assert len({time.date() for time in local}) == 365


CHANGES = [datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)]  # Europe/Berlin
FIXED = ["30 2 * * *", "0,59 2,3 * * *", "15 0-5 * * *"]
ELAPSED = ["*/7 * * * *", "10 * * * *", "* 2 * * *"]


@given(st.sampled_from(CHANGES), st.integers(-200, 200), st.sampled_from([*FIXED, *ELAPSED]))
def test_next_is_always_later_and_nothing_lies_between(change: datetime, minutes: int, cron: str) -> None:
    after = change + timedelta(minutes=minutes)

    time = next_time(cron, "Europe/Berlin", after)

    assert time > after
    assert next_time(cron, "Europe/Berlin", time - timedelta(seconds=1)) == time
    middle = after + (time - after) / 2
    assert next_time(cron, "Europe/Berlin", middle) == time


@given(st.sampled_from(CHANGES), st.integers(-200, 200), st.sampled_from(ELAPSED))
def test_elapsed_time_patterns_match_every_wall_clock_minute(change: datetime, minutes: int, cron: str) -> None:
    after = change + timedelta(minutes=minutes)
    matches = {
        "*/7 * * * *": lambda t: t.minute % 7 == 0,
        "10 * * * *": lambda t: t.minute == 10,
        "* 2 * * *": lambda t: t.hour == 2,
    }[cron]

    time = after
    while True:
        time += timedelta(minutes=1)
        if matches(time.astimezone(ZoneInfo("Europe/Berlin"))):
            break

    assert next_time(cron, "Europe/Berlin", after) == time


@pytest.mark.parametrize(
    ("cron", "why"),
    [
        ("61 * * * *", "bad minute"),
        ("* * * *", "4 fields"),
        ("* * * * * *", "6 fields"),
        ("", "0 fields"),
        ("@daily", "1 fields"),
        ("0 0 31 2 *", "bad day-of-month"),
        ("a b c d e", "bad minute"),
    ],
)
def test_a_bad_expression_is_explained(cron: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as error:
        check_cron(cron)
    assert "write five fields" in str(error.value)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "CEST", "Europe", "europe/berlin"])
def test_a_bad_zone_is_explained(zone: str) -> None:
    with pytest.raises(ValueError, match="is not an IANA time zone; write a name such as"):
        check_zone(zone)
