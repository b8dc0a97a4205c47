"""The example's functions: what they make of good, odd and bad records, and that parts add up."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from examples.flights.data import CORRUPT, open_data_set
from examples.flights.delays import aggregate, clean, combine

COLUMNS = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,"
    "origin,dest,air_time,distance,hour,minute,time_hour"
)


def record(**changes: str) -> dict[str, str]:
    row = "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z"
    return {**dict(zip(COLUMNS.split(","), row.split(","), strict=True)), **changes}


def test_a_flight_gets_its_numbers_as_numbers() -> None:
    assert clean(record()) == {
        "date": "2013-01-01",
        "carrier": "UA",
        "flight": 1545,
        "origin": "EWR",
        "destination": "IAH",
        "distance": 1400,
        "cancelled": False,
        "diverted": False,
        "departure_delay": 2,
        "arrival_delay": 11,
    }


def test_a_flight_that_never_left_is_cancelled() -> None:
    flight = clean(record(dep_time="NA", dep_delay="NA", arr_delay="NA"))
    assert (flight["cancelled"], flight["diverted"], flight["departure_delay"]) == (True, False, None)


def test_a_flight_that_never_arrived_is_diverted() -> None:
    flight = clean(record(arr_delay="NA"))
    assert (flight["cancelled"], flight["diverted"], flight["arrival_delay"]) == (False, True, None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"month": "2", "day": "30"}, "year, month, day: 2013-2-30 is not a date"),
        ({"dep_delay": "two"}, "dep_delay: 'two' is not a whole number"),
        ({"carrier": "United"}, "carrier: 'United' is not a two-character airline code"),
        ({"distance": "-1400"}, "distance: -1400 miles is not a distance"),
    ],
)
def test_a_bad_record_is_refused_by_field_and_value(changes: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match="^" + reason):
        clean(record(**changes))


def test_every_corrupt_line_of_the_data_is_refused() -> None:
    for line in CORRUPT:
        [row] = csv.reader([line])
        if len(row) == len(COLUMNS.split(",")):  # a row of another width is refused before it gets here
            with pytest.raises(ValueError, match=r"^\w+"):
                clean(dict(zip(COLUMNS.split(","), row, strict=True)))


def test_parts_add_up_to_the_whole(tmp_path: Path) -> None:
    flights = []
    with open_data_set() as lines:
        for number, row in enumerate(csv.DictReader(lines)):
            if number % 40 == 0:
                flights.append(clean(row))

    whole = combined([flights], tmp_path / "whole")
    parts = combined([flights[:1000], flights[1000:1001], flights[1001:]], tmp_path / "parts")

    assert len(flights) > 8000
    assert parts == whole
    assert sum(int(row["flights"]) for row in csv.DictReader(whole.splitlines())) == len(flights)


def combined(parts: list[list[dict[str, Any]]], directory: Path) -> str:
    """The table that the parts make."""
    sums = directory / "sums"
    sums.mkdir(parents=True)
    for number, flights in enumerate(parts):
        part = directory / f"{number}.jsonl"
        part.write_text("".join(json.dumps(flight) + "\n" for flight in flights))
        aggregate(part, sums / f"{number:08d}.jsonl")
    combine(sums, directory / "delays.csv")
    return (directory / "delays.csv").read_text()
