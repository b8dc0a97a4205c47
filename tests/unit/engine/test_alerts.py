"""Quiet hours, and the words of alerts' times."""

from datetime import datetime

import pytest

from services.engine.alerts import QuietHours
from services.scheduler.alerts.words import span

BERLIN = "Europe/Berlin"
CASES = [
    ("22:00", "07:00", "UTC", "2026-11-30T21:59:59Z", None),
    ("22:00", "07:00", "UTC", "2026-11-30T22:00:00Z", "2026-12-01T07:00:00Z"),
    ("22:00", "07:00", "UTC", "2026-11-30T06:59:59Z", "2026-11-30T07:00:00Z"),
    ("22:00", "07:00", "UTC", "2026-11-30T07:00:00Z", None),
    ("12:00", "13:00", "UTC", "2026-11-30T12:30:00Z", "2026-11-30T13:00:00Z"),
    ("12:00", "13:00", "UTC", "2026-11-30T11:30:00Z", None),
    ("22:00", "07:00", BERLIN, "2026-11-30T21:30:00Z", "2026-12-01T06:00:00Z"),
    ("22:00", "07:00", BERLIN, "2026-10-24T21:30:00Z", "2026-10-25T06:00:00Z"),  # an hour longer: summer time ends
    ("22:00", "07:00", BERLIN, "2026-03-28T21:30:00Z", "2026-03-29T05:00:00Z"),  # an hour shorter
    ("00:00", "00:00", "UTC", "2026-11-30T05:00:00Z", "2026-12-01T00:00:00Z"),  # always
]


@pytest.mark.parametrize(("begin", "end", "zone", "now", "until"), CASES)
def test_quiet_hours_end_on_the_clock_of_their_time_zone(
    begin: str, end: str, zone: str, now: str, until: str | None
) -> None:
    quiet = QuietHours(begin=begin, end=end, time_zone=zone)
    assert quiet.until(datetime.fromisoformat(now)) == (until and datetime.fromisoformat(until))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (45, "45 s"), (60, "1 min"), (3599, "1 h"), (22_320, "6 h 12 min"), (183_600, "2 d 3 h")],
)
def test_a_time_is_told_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert span(seconds) == text
