"""Checks the results: `python examples/multipart/check.py DATA_DIR RESULTS_DIR`.

Each is compared with a computation of its own in this process; the prices with the closed form of Black and Scholes,
and with the same simulation run serially, to the last bit.
"""

import csv
import json
import sys
import tempfile
from collections import Counter
from itertools import pairwise
from math import erf, exp, isqrt, log, sqrt
from pathlib import Path
from typing import Any

import options

LIMIT = 20_000_000
RADIUS = 1_000_000
SPOT, RATE, PATHS, BATCHES = 100, 0.03, 25_000, 4
SIGMAS = 4.0  # further off than this are 6 of 100,000 honest prices


def check_primes(results: Path) -> str:
    """One sieve of the odd numbers only, against the shares of the array job."""
    rows = [{name: int(value) for name, value in row.items()} for row in read_csv(results / "primes.csv")]
    odd = bytearray([1]) * (LIMIT // 2 + 1)  # odd[i] is for 2i + 1; 2 itself is counted apart
    odd[0] = 0
    for number in range(3, isqrt(LIMIT + 1) + 1, 2):
        if odd[number // 2]:
            odd[number * number // 2 :: number] = bytes(len(range(number * number // 2, len(odd), number)))
    check_shares([(row["first"], row["last"]) for row in rows], 0, LIMIT)
    for row in rows:
        begin, end = row["first"] // 2, row["last"] // 2
        primes = odd.count(1, begin, end) + (row["first"] <= 2 < row["last"])
        twins = sum(map(int.__and__, odd[begin:end], odd[begin + 1 : end + 1]))
        compare(f"primes and twins in [{row['first']}, {row['last']})", (row["primes"], row["twins"]), (primes, twins))
    total = sum(row["primes"] for row in rows)
    compare("primes below 20,000,000, as tables have it", total, 1_270_607)
    return f"AWS Batch array: {len(rows)} children found {total:,} primes, {sum(row['twins'] for row in rows):,} twins"


def check_circle(results: Path) -> str:
    """Rows by whole-number square roots, against awk's."""
    rows = [tuple(map(int, line.split())) for line in (results / "points.txt").read_text().splitlines()]
    check_shares([row[:2] for row in rows], -RADIUS, RADIUS + 1)
    for first, last, points in rows:
        expected = sum(2 * isqrt(RADIUS**2 - y * y) + 1 for y in range(first, last))
        compare(f"points in rows {first} to {last - 1}", points, expected)
    total = sum(row[2] for row in rows)
    compare("points in the circle, as tables have it", total, 3_141_592_649_625)
    return f"Slurm array: {len(rows)} tasks counted {total:,} points, which makes pi {total / RADIUS**2:.9f}"


def check_shares(shares: list[tuple[int, ...]], first: int, last: int) -> None:
    compare("the first share's start", shares[0][0], first)
    compare("the last share's end", shares[-1][1], last)
    for one, next in pairwise(shares):
        compare(f"the start of the share after {one}", next[0], one[1])


def check_prices(results: Path) -> str:
    table = (results / "prices.csv").read_text()
    for found, serial in zip(table.splitlines(), simulate_serially(table).splitlines(), strict=True):
        compare("a line of the prices, against a serial run", found, serial)
    rows = [{name: float(value) for name, value in row.items()} for row in read_csv(results / "prices.csv")]
    worst = 0.0
    for row in rows:
        exact = black_scholes(row["strike"], row["volatility"], row["years"])
        off = abs(row["price"] - exact) / row["standard_error"]
        worst = max(worst, off)
        if off > SIGMAS:
            sys.exit(f"the price of {row} is {off:.1f} standard errors off the closed form's {exact:.5f}")
    return (
        f"Sweep: {len(rows)} options, as in a serial run to the last bit, and at most {worst:.1f} standard errors "
        "off the closed form"
    )


def black_scholes(strike: float, volatility: float, years: float) -> float:
    spread = volatility * sqrt(years)
    d1 = (log(SPOT / strike) + (RATE + volatility**2 / 2) * years) / spread
    return SPOT * normal(d1) - strike * exp(-RATE * years) * normal(d1 - spread)


def normal(x: float) -> float:
    return (1 + erf(x / sqrt(2))) / 2


def simulate_serially(table: str) -> str:
    """The table that one process makes of the options in it, batch after batch."""
    with tempfile.TemporaryDirectory() as name:
        work, sums = Path(name), Path(name) / "sums"
        sums.mkdir()
        for number, row in enumerate(csv.DictReader(table.splitlines())):
            option = {name: float(row[name]) for name in ("strike", "volatility", "years")}
            for batch in range(BATCHES):
                (work / "item.json").write_text(json.dumps({**option, "batch": batch}))
                target = sums / f"{number}-{batch}.json"
                options.simulate(work / "item.json", target, spot=SPOT, rate=RATE, paths=PATHS)
        options.price(sums, work / "prices.csv")
        return (work / "prices.csv").read_text()


def check_words(data: Path, results: Path) -> str:
    """Words, found by translating everything but letters, against the map-reduce's regular expression."""
    texts = [path.read_text().lower() for path in data.glob("texts/**/*.txt")]
    blanks = {ord(sign): " " for sign in set().union(*texts) if not sign.isalpha()}
    expected = Counter(word for text in texts for word in text.translate(blanks).split())
    lines = [json.loads(line) for line in (results / "words.jsonl").read_text().splitlines()]
    compare("number of different words", len(lines), len(expected))
    for line in lines:
        compare(f"count of {line['word']!r}", line["count"], expected[line["word"]])
    counts = [line["count"] for line in lines]
    compare("order of the words", counts, sorted(counts, reverse=True))
    return f"Map-reduce: {len(texts):,} texts, {sum(counts):,} words, {len(lines):,} different ones, each counted right"


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def compare(what: str, found: Any, expected: Any) -> None:
    if found != expected:
        sys.exit(f"{what}: the job says {found}, here it is {expected}")


def main(data: Path, results: Path) -> None:
    print(check_primes(results / "multipart-primes"))
    print(check_circle(results / "multipart-circle"))
    print(check_prices(results / "multipart-options"))
    print(check_words(data, results / "multipart-words"))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
