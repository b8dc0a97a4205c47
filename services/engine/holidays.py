"""Holidays as iCalendar says them (RFC 5545): the days of each event, once or every year."""

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from itertools import takewhile
from typing import Any

YEARS = 10  # ahead, for which holidays that come every year are kept
DAYS_MAX = 5_000
RECURRING_MAX = 100

_DAY = timedelta(days=1)
_EVENT_DAYS_MAX = 366


def read_holidays(text: str, today: date) -> list[date]:
    """The days of all events that are not cancelled, from a year ago to YEARS ahead. Raises ValueError."""
    from icalendar import Calendar  # the import is slow, and few schedules need it

    try:
        events = [event for event in Calendar.from_ical(text).walk("VEVENT") if event.get("STATUS") != "CANCELLED"]
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"this is not iCalendar ({error}); send the text of an .ics file, BEGIN:VCALENDAR …"
        ) from error
    if sum("RRULE" in event for event in events) > RECURRING_MAX:
        raise ValueError(f"more than {RECURRING_MAX} events recur; leave out what is not a holiday")
    since, until = today - 366 * _DAY, today + YEARS * 366 * _DAY
    days = sorted({day for event in events for day in _days_of(event, since, until) if since <= day <= until})
    if not days:
        raise ValueError(f"no event is between {since} and {until}; send a calendar of the years to come")
    if len(days) > DAYS_MAX:
        raise ValueError(f"these are {len(days):,} days; there may be {DAYS_MAX:,}")
    return days


def _days_of(event: Any, since: date, until: date) -> Iterator[date]:
    first, last = _first_and_last(event)
    for begin in _begins(event, first, since - _EVENT_DAYS_MAX * _DAY, until):
        for distance in range((last - first).days + 1):
            yield begin + distance * _DAY


def _first_and_last(event: Any) -> tuple[date, date]:
    """Its days as its own time zone has them; the end itself is not part of an event."""
    name = event.get("SUMMARY", event.get("UID", "an event"))
    try:
        begin, end = event.decoded("DTSTART"), event.decoded("DTEND", None)
        end = begin + event.decoded("DURATION") if end is None and "DURATION" in event else end
        if not isinstance(begin, date):
            raise TypeError(f"{begin!r} is not a date")
        first = begin.date() if isinstance(begin, datetime) else begin
        last = _last_day(end, first)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{name}: its DTSTART or DTEND can't be read; write 20261225") from error
    if not 0 <= (last - first).days < _EVENT_DAYS_MAX:
        raise ValueError(f"{name}: it is from {first} to {last}; an event may last {_EVENT_DAYS_MAX} days")
    return first, last


def _last_day(end: date | None, first: date) -> date:
    if end is None:
        return first
    if isinstance(end, datetime):
        return (end - timedelta(microseconds=1)).date() if end.date() > first else first
    return max(end - _DAY, first)


def _begins(event: Any, first: date, since: date, until: date) -> Iterator[date]:
    """The first days of the event and of its repetitions."""
    if "RRULE" not in event:
        yield first
        return
    from dateutil.rrule import rrulestr

    rule = event["RRULE"]
    if isinstance(rule, list) or rule.get("FREQ") != ["YEARLY"] or {"BYHOUR", "BYMINUTE", "BYSECOND"} & set(rule):
        raise ValueError(f"{event.get('SUMMARY', event.get('UID'))}: a holiday recurs by one rule, FREQ=YEARLY")
    text = ";".join(part for part in rule.to_ical().decode().split(";") if not part.startswith("UNTIL="))
    last = min([until, *(each.date() if isinstance(each, datetime) else each for each in rule.get("UNTIL", []))])
    left_out = {each.dt.date() if isinstance(each.dt, datetime) else each.dt for each in _exceptions(event)}
    try:
        recurring = rrulestr(text, dtstart=datetime.combine(first, time()))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{text}: this rule can't be read: {error}") from error
    begins = (begin.date() for begin in recurring)
    for begin in takewhile(lambda day: day <= last, begins):
        if begin >= since and begin not in left_out:
            yield begin


def _exceptions(event: Any) -> Iterator[Any]:
    listed = event.get("EXDATE", [])
    for each in listed if isinstance(listed, list) else [listed]:
        yield from each.dts
