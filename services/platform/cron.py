"""When a recurring job is due: cron expressions in an IANA time zone, correct across daylight-saving changes.

A job at a fixed time of day runs once a day. A time that the spring change skips runs right after the gap; one that the
autumn change repeats runs the first time. A job with a `*` minute or hour follows elapsed time (as Debian's cron).
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

_FIX = (
    "write five fields: minute hour day-of-month month day-of-week, such as '30 6 * * MON-FRI' "
    "or '0 0 L * *' (last day of the month)"
)

_zones = lru_cache(available_timezones)


def check_zone(time_zone: str) -> str:
    """`time_zone` itself; raises ValueError unless it is an IANA name."""
    if time_zone not in _zones():
        raise ValueError(
            f"{time_zone!r} is not an IANA time zone; write a name such as 'UTC', 'Europe/Berlin' or 'America/New_York'"
        )
    return time_zone


def check_cron(cron: str) -> str:
    """`cron` itself; raises ValueError, with the fix, if it is malformed or never due."""
    next_time(cron, "UTC", datetime(2000, 1, 1, tzinfo=UTC))
    return cron


def next_time(cron: str, time_zone: str, after: datetime) -> datetime:
    """The first due time after `after` (aware), in UTC; raises ValueError if the expression or zone is bad."""
    time = next(due_times(cron, time_zone, after), None)
    if time is None:
        raise ValueError(f"{cron!r} is never due in 50 years; {_FIX}")
    return time


def due_times(cron: str, time_zone: str, after: datetime) -> Iterator[datetime]:
    """All due times after `after` (aware), in UTC; raises ValueError if the expression or zone is bad."""
    if len(cron.split()) != 5:
        raise ValueError(f"{cron!r} has {len(cron.split())} fields; {_FIX}")
    try:
        times = CronSim(cron, after.astimezone(ZoneInfo(check_zone(time_zone))))
    except CronSimError as error:
        raise ValueError(f"{cron!r} is not a cron expression ({str(error).lower()}); {_FIX}") from error
    # In the hour that autumn repeats, CronSim names fixed times by their first pass, which may lie before `after`.
    return (utc for time in times if (utc := time.astimezone(UTC)) > after)


_DAYS_FIX = "write three fields: day-of-month month day-of-week, such as 'L * *', '* * SAT,SUN' or '24-31 12 *'"


@lru_cache(maxsize=1024)
def _parse_days(days: str) -> CronSim:
    if len(days.split()) != 3:
        raise ValueError(f"{days!r} has {len(days.split())} fields; {_DAYS_FIX}")
    try:
        return CronSim(f"0 0 {days}", datetime(2000, 1, 1))
    except CronSimError as error:
        raise ValueError(f"{days!r} names no days ({str(error).lower()}); {_DAYS_FIX}") from error


def check_days(days: str) -> str:
    """`days` itself, the last three fields of a cron expression; raises ValueError, with the fix, if malformed."""
    _parse_days(days)
    return days


def matches_day(days: str, day: date) -> bool:
    """Whether the last three fields of a cron expression are true of the day."""
    parsed = _parse_days(days)
    return day.month in parsed.months and parsed.match_day(day)
