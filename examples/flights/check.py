"""Checks the results: `python examples/flights/check.py DATA_DIR RESULTS_DIR`.

They are compared with a computation in one pass over the data, which shares no code with the job.
"""

import csv
import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Statistics:
    """What is expected of one carrier's month."""

    counts: Counter[str] = field(default_factory=Counter)
    departure_delays: list[float] = field(default_factory=list)
    arrival_delays: list[float] = field(default_factory=list)


def compute_directly(data: Path) -> dict[tuple[str, str], Statistics]:
    """The statistics by carrier and month, in one process and one pass over the data without its corrupt lines."""
    corrupt = set((data / "corrupt.csv").read_text().splitlines(keepends=True))
    found: dict[tuple[str, str], Statistics] = defaultdict(Statistics)
    with (data / "flights.csv").open(newline="") as source:
        for row in csv.DictReader(line for line in source if line not in corrupt):
            _count(row, found[row["carrier"], f"{row['year']}-{int(row['month']):02d}"])
    return found


def _count(row: dict[str, str], statistics: Statistics) -> None:
    statistics.counts["flights"] += 1
    if row["dep_delay"] == "NA":
        statistics.counts["cancelled"] += 1
        return
    statistics.departure_delays.append(float(row["dep_delay"]))
    if row["arr_delay"] == "NA":
        statistics.counts["diverted"] += 1
        return
    statistics.arrival_delays.append(float(row["arr_delay"]))
    statistics.counts["arrived"] += 1
    statistics.counts["late"] += float(row["arr_delay"]) > 15


def check_table(results: Path, expected: dict[tuple[str, str], Statistics]) -> None:
    """Ends the program at the first number that differs from the direct computation."""
    with (results / "delays.csv").open(newline="") as file:
        rows = {(row["carrier"], row["month"]): row for row in csv.DictReader(file)}
    show_worst(rows.values())
    if rows.keys() != expected.keys():
        sys.exit(f"the result has {len(rows)} carriers' months, the direct computation {len(expected)}")
    for key, statistics in expected.items():
        _check_row(key, rows[key], statistics)
    flights = sum(statistics.counts["flights"] for statistics in expected.values())
    print(f"\nChecked: {len(rows)} carriers' months, {flights:,} flights, every count and mean as computed directly.")


def show_worst(rows: Iterable[dict[str, str]]) -> None:
    busy = [row for row in rows if int(row["arrived"]) >= 500]
    busy.sort(key=lambda row: float(row["arrival_delay_mean"]), reverse=True)
    layout = "  {:<9}{:<9}{:>8}{:>11}{:>7}{:>13}"
    print("The ten worst of the busy months, by mean arrival delay:\n")
    print(layout.format("carrier", "month", "flights", "cancelled", "late", "mean delay"))
    for row in busy[:10]:
        values = (row[name] for name in ("carrier", "month", "flights", "cancelled", "late"))
        print(layout.format(*values, f"{float(row['arrival_delay_mean']):.1f} min"))


def _check_row(key: tuple[str, str], row: dict[str, str], statistics: Statistics) -> None:
    for name in ("flights", "cancelled", "diverted", "arrived", "late"):
        if int(row[name]) != statistics.counts[name]:
            sys.exit(f"{name} of {key}: the job says {row[name]}, directly it is {statistics.counts[name]}")
    for name, delays in (("departure", statistics.departure_delays), ("arrival", statistics.arrival_delays)):
        got, mean = row[f"{name}_delay_mean"], math.fsum(delays) / len(delays) if delays else None
        if not (got == "" if mean is None else math.isclose(float(got or "nan"), mean, abs_tol=1e-5)):
            sys.exit(f"mean {name} delay of {key}: the job says {got!r}, directly it is {mean}")


def check_rejects(data: Path, results: Path) -> None:
    rejects = [json.loads(line) for line in (results / "rejects.jsonl").read_text().splitlines()]
    corrupt = (data / "corrupt.csv").read_text().splitlines()
    if len(rejects) != len(corrupt):
        sys.exit(f"{len(rejects)} records were rejected, {len(corrupt)} are corrupt")
    print(f"Rejected: {len(rejects)} records, just the corrupt ones; for example: {rejects[0]['reason']}")


def main(data: Path, results: Path) -> None:
    check_table(results / "flight-delays", compute_directly(data))
    check_rejects(data, results / "flight-delays")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
