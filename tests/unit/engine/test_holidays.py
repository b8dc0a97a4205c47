"""Holidays of iCalendar files (services.engine.holidays): the days of their events, once or every year."""

from datetime import date

import pytest

from services.engine.holidays import read_holidays

TODAY = date(2026, 11, 30)


def calendar(*events: str) -> str:
    lines = [line for event in events for line in ("BEGIN:VEVENT", *event.split(), "END:VEVENT")]
    return "\r\n".join(["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//test//EN", *lines, "END:VCALENDAR", ""])


EVENTS = [
    ("DTSTART;VALUE=DATE:20261225", ["2026-12-25"]),
    ("DTSTART;VALUE=DATE:20261225 DTEND;VALUE=DATE:20261227", ["2026-12-25", "2026-12-26"]),
    ("DTSTART;VALUE=DATE:20261225 DURATION:P2D", ["2026-12-25", "2026-12-26"]),
    ("DTSTART;VALUE=DATE:20261225 DTEND;VALUE=DATE:20261225", ["2026-12-25"]),
    ("DTSTART:20261224T120000Z DTEND:20261226T000000Z", ["2026-12-24", "2026-12-25"]),
    ("DTSTART;TZID=Europe/Berlin:20261224T000000 DTEND;TZID=Europe/Berlin:20261225T000000", ["2026-12-24"]),
    ("DTSTART;VALUE=DATE:20201231 RRULE:FREQ=YEARLY;COUNT=8", ["2025-12-31", "2026-12-31", "2027-12-31"]),
    ("DTSTART;VALUE=DATE:20201231 RRULE:FREQ=YEARLY;UNTIL=20261231", ["2025-12-31", "2026-12-31"]),
    ("DTSTART;VALUE=DATE:20241231 RRULE:FREQ=YEARLY;COUNT=3 EXDATE;VALUE=DATE:20251231", ["2026-12-31"]),
    ("DTSTART;VALUE=DATE:20240229 RRULE:FREQ=YEARLY;COUNT=2", ["2028-02-29"]),
    ("DTSTART;VALUE=DATE:20251127 RRULE:FREQ=YEARLY;BYMONTH=11;BYDAY=4TH;COUNT=2", ["2026-11-26"]),
    (
        "DTSTART;VALUE=DATE:20231230 DTEND;VALUE=DATE:20240102 RRULE:FREQ=YEARLY;COUNT=3",
        ["2025-12-30", "2025-12-31", "2026-01-01"],
    ),
]


@pytest.mark.parametrize(("event", "days"), EVENTS)
def test_the_days_of_an_event(event: str, days: list[str]) -> None:
    assert [str(day) for day in read_holidays(calendar(event), TODAY)] == days


def test_days_of_several_events_are_in_order_and_once() -> None:
    text = calendar("DTSTART;VALUE=DATE:20270101", "DTSTART;VALUE=DATE:20261225", "DTSTART;VALUE=DATE:20270101")
    assert read_holidays(text, TODAY) == [date(2026, 12, 25), date(2027, 1, 1)]


def test_an_event_that_is_cancelled_does_not_count() -> None:
    text = calendar("DTSTART;VALUE=DATE:20270101 STATUS:CANCELLED", "DTSTART;VALUE=DATE:20261225")
    assert read_holidays(text, TODAY) == [date(2026, 12, 25)]


def test_what_recurs_for_ever_is_kept_for_ten_years() -> None:
    days = read_holidays(calendar("DTSTART;VALUE=DATE:19900101 RRULE:FREQ=YEARLY"), TODAY)
    assert days[0] == date(2026, 1, 1) and days[-1].year == 2036 and len(days) == 11


FAULTS = [
    ("hello", "this is not iCalendar"),
    ("", "this is not iCalendar"),
    (calendar(), "no event is between 2025-11-29 and"),
    (calendar("DTSTART;VALUE=DATE:19990101"), "no event is between"),
    (calendar("SUMMARY:Advent"), "Advent: its DTSTART or DTEND can't be read"),
    (calendar("SUMMARY:Advent DTSTART:soon"), "Advent: its DTSTART or DTEND can't be read"),
    (calendar("SUMMARY:Advent DTSTART;VALUE=DATE:20261201 DTEND;VALUE=DATE:20281224"), "Advent: it is from 2026-12-01"),
    (calendar("SUMMARY:Rest DTSTART;VALUE=DATE:20261201 RRULE:FREQ=DAILY"), "Rest: a holiday recurs by one rule"),
    (calendar("DTSTART;VALUE=DATE:20261201 RRULE:FREQ=YEARLY;BYHOUR=1,2,3"), "a holiday recurs by one rule"),
    (calendar("DTSTART;VALUE=DATE:20261201 RRULE:FREQ=YEARLY;BYDAY=9XX"), "RRULE"),
    (calendar(*["DTSTART;VALUE=DATE:20261201 RRULE:FREQ=YEARLY"] * 101), "more than 100 events recur"),
]


@pytest.mark.parametrize(("text", "why"), FAULTS)
def test_what_is_not_a_calendar_of_holidays_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_holidays(text, TODAY)
    assert why in str(refused.value)
