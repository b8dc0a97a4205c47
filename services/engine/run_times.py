"""Placeholders in a schedule's job, which stand for the times of its run: `{run_date}`, `{scheduled_at:%Y/%m/%d}`.

A placeholder is a name in braces, with a format after a colon. `{{name}}` is a literal `{name}`; braces that hold no
name stay as they are.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

from services.engine.errors import SpecError
from services.engine.timetable import Timetable

NAMES = ("run_date", "scheduled_at", "previous_run_at")

_FORM = re.compile(
    r"\{\{(?P<literal>[A-Za-z_][\w.]*(?::[^{}]*)?)\}\}|\{(?P<name>[A-Za-z_][\w.]*)(?::(?P<format>[^{}]*))?\}"
)
_CODES = "YymdHMSjGVuz"  # of strftime, those that no locale changes
_FORMAT = re.compile(rf"(?:[^%]|%[{_CODES}%])+")
_DATE = "%Y-%m-%d"

# Where a job may have them.
_PLACES = re.compile(r"(name|results|input|labels|merge\.(?!processor\b)\w+|stages\.\d+\.(name|params|inputs))(\..*)?")
_PLACES_ARE = "name, results, input, labels, merge, and name, params and inputs of a stage"

_LONG_AGO = timedelta(days=50 * 366)

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class RunTimes:
    """The times of a run, in the time zone of its schedule.

    The previous run is the one that the schedule's times have before this one, whatever became of it: so the runs of a
    day, made up for or not, cover all time without a gap or an overlap.
    """

    timetable: Timetable
    at: datetime

    def value_of(self, name: str, format: str | None) -> str:
        """The text of a placeholder; ISO 8601 without a format."""
        time = self.previous if name == "previous_run_at" else self.at.astimezone(self._zone)
        format = format or (_DATE if name == "run_date" else None)
        return time.isoformat(timespec="seconds") if format is None else time.strftime(format)

    @property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.timetable.time_zone)

    @cached_property
    def previous(self) -> datetime:
        until = self.at - timedelta(microseconds=1)
        times = self.timetable.last(after=self.at - _LONG_AGO, until=until, count=1)
        if not times:
            raise ValueError(f"{{previous_run_at}}: {self.timetable.cron!r} has no time before {self.at.isoformat()}")
        return times[0].astimezone(self._zone)


SAMPLE = RunTimes(Timetable("0 2 * * *", "UTC"), datetime(2026, 11, 30, 2, tzinfo=UTC))


def fill_times(job: Any, times: RunTimes) -> Any:
    """The job with each placeholder replaced in every string, but not in keys of mappings."""

    def fill(match: re.Match[str], _: Path) -> str:
        return f"{{{match['literal']}}}" if match["literal"] else times.value_of(match["name"], match["format"])

    return _replace(job, fill)


def find_faults(job: Any) -> Iterator[tuple[Path, SpecError]]:
    """What is wrong with the job's placeholders, and where."""
    faults: list[tuple[Path, SpecError]] = []

    def check(match: re.Match[str], path: Path) -> str:
        fix = _fault(match, path)
        if fix:
            faults.append((path, SpecError(".".join(map(str, path)), match[0], fix)))
        return match[0]

    _replace(job, check)
    yield from faults


def has_placeholders(job: Any) -> bool:
    """Whether something is to be filled in, or unescaped."""
    found = False

    def note(match: re.Match[str], _: Path) -> str:
        nonlocal found
        found = True
        return match[0]

    _replace(job, note)
    return found


def _fault(match: re.Match[str], path: Path) -> str | None:
    written, name, format = match[0], match["name"], match["format"]
    place = ".".join(map(str, path))
    if name is not None and name not in NAMES:
        known = ", ".join(f"{{{each}}}" for each in NAMES)
        return f"there is no placeholder {written} (there are {known}); write {{{written}}} for the text {written}"
    if name is not None and format is not None and not _FORMAT.fullmatch(format):
        codes = " ".join(f"%{code}" for code in _CODES)
        return f"{format!r} is not a format; write text and any of {codes}, such as {{{name}:%Y/%m/%d}}"
    if not _PLACES.fullmatch(place):
        return f"no placeholder can stand here; they can in {_PLACES_ARE}"
    return None


def _replace(value: Any, replace: Callable[[re.Match[str], Path], str], path: Path = ()) -> Any:
    """The value with each placeholder of its strings replaced."""
    if isinstance(value, dict):
        return {key: _replace(each, replace, (*path, key)) for key, each in value.items()}
    if isinstance(value, list):
        return [_replace(each, replace, (*path, number)) for number, each in enumerate(value)]
    return _FORM.sub(lambda match: replace(match, path), value) if isinstance(value, str) else value
