"""Timetable: when a schedule is due, by its cron expression and its calendar."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby, takewhile
from typing import Any
from zoneinfo import ZoneInfo

from asyncpg import Record

from services.contract.states import BusinessDays
from services.platform.cron import due_times, matches_day

HOLIDAYS = "holidays"  # among the days on which a schedule does not run

_DAY = timedelta(days=1)
_MOVED_MAX = 31  # days
_LEFT_OUT_MAX = 400  # days on end on which the expression is due
_SATURDAY = 5


@dataclass(frozen=True)
class Timetable:
    """The times of a cron expression in a time zone, without those on the days `not_on`.

    What is left and does not fall on a business day (Monday to Friday, and no holiday) is left out (`only`), or moves
    to the business day before or after, at the same time of day.
    """

    cron: str
    time_zone: str
    not_on: tuple[str, ...] = ()
    business_days: BusinessDays | None = None
    holidays: frozenset[date] = frozenset()

    @classmethod
    def of(cls, schedule: Record | Mapping[str, Any]) -> "Timetable":
        """That of a row of `schedules`."""
        rules = (tuple(schedule["not_on"]), schedule["business_days"], frozenset(schedule["holidays"]))
        return cls(schedule["cron"], schedule["time_zone"], *rules)

    def times(self, after: datetime) -> Iterator[datetime]:
        """All due times after `after` (aware), in UTC. Raises ValueError if the rules leave out too many on end."""
        if not self.not_on and self.business_days is None:
            return due_times(self.cron, self.time_zone, after)
        if self.business_days in ("previous", "next"):
            begin = self._begin_of_moves(after) if self.business_days == "next" else after
            return (time for time in self._move(self._leave_out(begin)) if time > after)
        return self._leave_out(after)

    def next(self, after: datetime) -> datetime:
        """The first due time after `after`. Raises ValueError if there is none."""
        time = next(self.times(after), None)
        if time is None:
            raise ValueError(f"{self.cron!r} is never due in 50 years")
        return time

    def last(self, *, after: datetime, until: datetime, count: int) -> list[datetime]:
        """The last `count` due times after `after` and not after `until` (both aware), the earliest first, in UTC.

        Only forward iteration is right across daylight-saving changes, so this looks forward from ever further back,
        and reads few more times than it returns, however long ago `after` is.
        """
        width = timedelta(hours=1)
        while True:
            start = after if until - after <= width else until - width
            times = list(takewhile(lambda time: time <= until, self.times(start)))
            if start == after or len(times) >= count:
                return times[-count:]
            width *= 3

    def _is_business_day(self, day: date) -> bool:
        return day.weekday() < _SATURDAY and day not in self.holidays

    def _is_left_out(self, day: date) -> bool:
        if self.business_days == "only" and not self._is_business_day(day):
            return True
        return any(day in self.holidays if days == HOLIDAYS else matches_day(days, day) for days in self.not_on)

    def _leave_out(self, after: datetime) -> Iterator[datetime]:
        zone, left_out = ZoneInfo(self.time_zone), 0
        times = due_times(self.cron, self.time_zone, after)
        while (time := next(times, None)) is not None:
            day = time.astimezone(zone).date()
            if not self._is_left_out(day):
                left_out = 0
                yield time
                continue
            left_out += 1
            if left_out > _LEFT_OUT_MAX:
                raise ValueError(f"{self.cron!r} is never due on a day that not_on and business_days leave")
            midnight = datetime.combine(day + _DAY, datetime.min.time(), zone).astimezone(UTC)
            times = due_times(self.cron, self.time_zone, max(time, midnight - timedelta(seconds=1)))

    def _move(self, times: Iterator[datetime]) -> Iterator[datetime]:
        """Days keep their order as they move, so those that move to one day are neighbours."""
        zone = ZoneInfo(self.time_zone)
        for target, moved in groupby(times, lambda time: self._business_day_of(time.astimezone(zone).date())):
            yield from sorted({self._at(target, time.astimezone(zone)) for time in moved})

    def _begin_of_moves(self, after: datetime) -> datetime:
        """Before the first day from which a run may move to a time after `after`."""
        zone = ZoneInfo(self.time_zone)
        day = after.astimezone(zone).date()
        for _ in range(_MOVED_MAX):
            if self._is_business_day(day - _DAY):
                break
            day -= _DAY
        return datetime.combine(day, datetime.min.time(), zone).astimezone(UTC) - timedelta(seconds=1)

    def _business_day_of(self, day: date) -> date:
        step = -_DAY if self.business_days == "previous" else _DAY
        for distance in range(_MOVED_MAX + 1):
            if self._is_business_day(day + distance * step):
                return day + distance * step
        raise ValueError(f"there is no business day within {_MOVED_MAX} days of {day}")

    def _at(self, day: date, local: datetime) -> datetime:
        moved = local if local.date() == day else datetime.combine(day, local.time(), local.tzinfo)
        return moved.astimezone(UTC)
