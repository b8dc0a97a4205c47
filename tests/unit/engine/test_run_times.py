"""The placeholders of a job of a schedule (engine.run_times): times of its run, as clocks of its zone show them."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from services.engine.run_times import RunTimes, fill_times, find_faults, has_placeholders
from services.engine.timetable import Timetable


def filled(text: str, at: str, cron: str = "0 2 * * *", zone: str = "Europe/Berlin") -> Any:
    """The text in a run at a UTC time."""
    return fill_times(text, RunTimes(Timetable(cron, zone), datetime.fromisoformat(at)))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{run_date}", "2026-03-01"),
        ("{scheduled_at}", "2026-03-01T02:00:00+01:00"),
        ("{previous_run_at}", "2026-02-28T02:00:00+01:00"),
        ("s3://b/{run_date:%Y/%m/%d}/{run_date}.csv", "s3://b/2026/03/01/2026-03-01.csv"),
        ("{scheduled_at:%Y%m%dT%H%M%S%z}", "20260301T020000+0100"),
        ("{run_date:%G-W%V-%u, day %j of %y, 100%%}", "2026-W09-7, day 060 of 26, 100%"),
        ("{{run_date}}", "{run_date}"),
        ("{{run_date:%Y}}", "{run_date:%Y}"),
        ("{{{run_date}}}", "{{run_date}}"),
        ("{{anything.else}}", "{anything.else}"),
        ('{"a": {"b": 1}}', '{"a": {"b": 1}}'),
        ("[a-z]{2,3} {} {{}} { run_date }", "[a-z]{2,3} {} {{}} { run_date }"),
        ("plain", "plain"),
    ],
)
def test_what_a_text_becomes(text: str, value: str) -> None:
    assert filled(text, "2026-03-01T01:00Z") == value
    assert has_placeholders(text) == (text != value)


TIMES = [
    # the zone's date, not that of UTC
    ("0 0 * * *", "Asia/Tokyo", "2026-01-31T15:00Z", "2026-02-01T00:00:00+09:00", "2026-01-31T00:00:00+09:00"),
    ("0 22 * * *", "America/New_York", "2026-02-01T03:00Z", "2026-01-31T22:00:00-05:00", "2026-01-30T22:00:00-05:00"),
    # month ends, with a leap day and without
    ("0 6 L * *", "UTC", "2028-02-29T06:00Z", "2028-02-29T06:00:00+00:00", "2028-01-31T06:00:00+00:00"),
    ("0 6 L * *", "UTC", "2026-03-31T06:00Z", "2026-03-31T06:00:00+00:00", "2026-02-28T06:00:00+00:00"),
    ("0 6 29 2 *", "UTC", "2104-02-29T06:00Z", "2104-02-29T06:00:00+00:00", "2096-02-29T06:00:00+00:00"),
    # a time that spring skips: the run right after the gap
    ("30 2 * * *", "Europe/Berlin", "2026-03-29T01:00Z", "2026-03-29T03:00:00+02:00", "2026-03-28T02:30:00+01:00"),
    ("30 2 * * *", "Europe/Berlin", "2026-03-30T00:30Z", "2026-03-30T02:30:00+02:00", "2026-03-29T03:00:00+02:00"),
    # a time that autumn repeats: the first one
    ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30Z", "2026-10-25T02:30:00+02:00", "2026-10-24T02:30:00+02:00"),
    ("30 2 * * *", "Europe/Berlin", "2026-10-26T01:30Z", "2026-10-26T02:30:00+01:00", "2026-10-25T02:30:00+02:00"),
    # each of the hours that have the same name
    ("0 * * * *", "Europe/Berlin", "2026-10-25T01:00Z", "2026-10-25T02:00:00+01:00", "2026-10-25T02:00:00+02:00"),
    # a run by hand, between two of the clock
    ("0 2 * * *", "UTC", "2026-05-05T13:14:15.678Z", "2026-05-05T13:14:15+00:00", "2026-05-05T02:00:00+00:00"),
]  # fmt: skip


@pytest.mark.parametrize(("cron", "zone", "at", "scheduled_at", "previous"), TIMES)
def test_times_are_those_of_the_zones_clocks(cron: str, zone: str, at: str, scheduled_at: str, previous: str) -> None:
    job = ["{run_date}", "{scheduled_at}", "{previous_run_at}"]
    assert [filled(text, at, cron, zone) for text in job] == [scheduled_at[:10], scheduled_at, previous]
    assert datetime.fromisoformat(previous).astimezone(UTC) < datetime.fromisoformat(at)
    assert datetime.fromisoformat(previous).astimezone(ZoneInfo(zone)).isoformat() == previous


def test_strings_are_filled_at_any_depth_and_keys_are_not() -> None:
    job = {"input": [{"uri": "{run_date}"}], "labels": {"{run_date}": "{run_date}"}, "priority": 1, "name": None}
    times = RunTimes(Timetable("0 2 * * *", "UTC"), datetime(2026, 1, 1, tzinfo=UTC))
    day = "2026-01-01"
    assert fill_times(job, times) == {
        "input": [{"uri": day}],
        "labels": {"{run_date}": day},
        "priority": 1,
        "name": None,
    }


FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"input": {"uri": "s3://b/{rundate}"}}, "input.uri", "no placeholder {rundate} (there are {run_date}"),
    ({"name": "{Run_Date}"}, "name", "write {{Run_Date}} for the text"),
    ({"stages": [{"params": {"q": "{params.x}"}}]}, "stages.0.params.q", "no placeholder {params.x}"),
    ({"input": [{"uri": "{run_date:%q}"}]}, "input.0.uri", "'%q' is not a format"),
    ({"name": "{run_date:}"}, "name", "is not a format"),
    ({"name": "{run_date:%}"}, "name", "is not a format"),
    ({"name": "{run_date:%-d}"}, "name", "is not a format"),
    ({"share": "{run_date}"}, "share", "can in name, results, input"),
    ({"stages": [{"processor": "p-{run_date}"}]}, "stages.0.processor", "no placeholder can stand here"),
    ({"stages": [{"pool": "p-{run_date}"}]}, "stages.0.pool", "no placeholder can stand here"),
    ({"merge": {"type": "reduce", "processor": "{run_date}"}}, "merge.processor", "no placeholder can stand here"),
    ({"output_queue": "{run_date}"}, "output_queue", "no placeholder can stand here"),
]  # fmt: skip


@pytest.mark.parametrize(("job", "field", "fix"), FAULTS)
def test_a_fault_is_named_with_its_place_and_its_fix(job: dict[str, Any], field: str, fix: str) -> None:
    [(_, fault)] = find_faults(job)
    assert fault.field == field and fix in fault.fix, fault.fix


def test_placeholders_may_stand_where_a_run_has_its_own_values() -> None:
    text = "{run_date}/{previous_run_at:%Y}"
    job = {
        **dict.fromkeys(("name", "results"), text),
        "input": [{"uri": text}, {"items": [text]}],
        "labels": {"day": text},
        "merge": {"type": "reduce", "processor": "p", "filename": text, "params": {"a": text}, "inputs": {"b": text}},
        "stages": [{"processor": "p", "name": text, "params": {"a": {"b": [text]}}, "inputs": {"c": text}}],
    }
    assert list(find_faults(job)) == []
