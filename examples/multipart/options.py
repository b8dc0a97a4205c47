"""Prices of European call options by Monte Carlo: a sweep over strikes, volatilities and times to expiry.

Three plain functions that know nothing of the grid they run on. Every random number comes from a seed that names the
option and the batch, so the same sweep gives the same prices to the last bit, wherever and in whatever order it runs.
"""

import csv
import json
from collections import defaultdict
from math import exp, fsum, sqrt
from pathlib import Path
from random import Random
from typing import Any

_OPTION = ("strike", "volatility", "years")


def batches(input: Path, output: Path, batches: int) -> list[dict[str, Any]]:
    """The work of one option, in independent batches."""
    option = json.loads(input.read_text())
    return [{**option, "batch": batch} for batch in range(batches)]


def simulate(input: Path, output: Path, *, spot: float, rate: float, paths: int) -> None:
    """One batch: the sums of the discounted payoffs and of their squares over a number of paths."""
    work = json.loads(input.read_text())
    strike, volatility, years = (float(work[name]) for name in _OPTION)
    draw = Random(f"{strike} {volatility} {years} {work['batch']}")
    drift, spread = (rate - volatility**2 / 2) * years, volatility * sqrt(years)
    payoffs = [max(0.0, spot * exp(drift + spread * draw.gauss(0, 1)) - strike) for _ in range(paths)]
    discount = exp(-rate * years)
    sums = {"paths": paths, "sum": discount * fsum(payoffs), "squares": discount**2 * fsum(p * p for p in payoffs)}
    output.write_text(json.dumps(work | sums) + "\n")


def price(input: Path, output: Path) -> None:
    """The batches (a directory of them) as one table: each option's price and its standard error."""
    sums: dict[tuple[float, ...], list[dict[str, Any]]] = defaultdict(list)
    for file in input.iterdir():
        batch = json.loads(file.read_text())
        sums[tuple(float(batch[name]) for name in _OPTION)].append(batch)
    with output.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*_OPTION, "paths", "price", "standard_error"])
        for option, batches in sorted(sums.items()):
            paths = sum(batch["paths"] for batch in batches)
            mean = fsum(batch["sum"] for batch in batches) / paths
            variance = fsum(batch["squares"] for batch in batches) / paths - mean**2
            table.writerow([*option, paths, repr(mean), repr(sqrt(variance / (paths - 1)))])
