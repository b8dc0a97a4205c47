"""Quantiles from a log-spaced histogram."""

import math
import random
from bisect import bisect_right
from collections import Counter

import pytest

from services.stats.histogram import BUCKETS, INNER_BOUNDS, WIDTH, bound, cumulate, quantile

SHARES = (0.01, 0.5, 0.95, 0.99, 1.0)


def count(values: list[float]) -> list[int]:
    counts = Counter(bisect_right(INNER_BOUNDS, value) for value in values)
    return [counts[bucket] for bucket in range(BUCKETS)]


def exact(values: list[float], share: float) -> float:
    return sorted(values)[math.ceil(share * len(values)) - 1]


def distributions() -> dict[str, list[float]]:
    draw = random.Random(20)
    return {
        "exponential": [draw.expovariate(5) for _ in range(20_000)],
        "log-normal over nine decades": [draw.lognormvariate(-2, 2.5) for _ in range(20_000)],
        "two humps": [draw.gauss(0.01, 0.001) if draw.random() < 0.9 else draw.gauss(600, 50) for _ in range(20_000)],
        "few": [draw.uniform(1, 100) for _ in range(7)],
        "all alike": [0.25] * 1000,
    }


@pytest.mark.parametrize("values", distributions().values(), ids=distributions().keys())
def test_a_quantile_is_within_a_bucket_of_the_exact_one(values: list[float]) -> None:
    for share in SHARES:
        estimate = quantile(count(values), share)
        assert estimate is not None
        assert exact(values, share) / WIDTH <= estimate * (1 + 1e-9)
        assert estimate <= exact(values, share) * WIDTH * (1 + 1e-9)


def test_a_bucket_is_nine_percent_wide_and_they_reach_from_a_microsecond_to_ten_days() -> None:
    assert pytest.approx(1.09, abs=0.001) == WIDTH
    assert bound(0) < 1e-6
    assert bound(BUCKETS) > 10 * 86_400
    assert all(math.isclose(bound(b) / bound(b - 1), WIDTH) for b in range(1, BUCKETS + 1))


def test_quantiles_grow_with_their_share() -> None:
    counts = count([random.Random(3).expovariate(1) for _ in range(500)])
    quantiles = [quantile(counts, share / 100) or 0.0 for share in range(1, 101)]
    assert quantiles == sorted(quantiles)


def test_nothing_counted_has_no_quantile() -> None:
    assert quantile([], 0.5) is None
    assert quantile([0, 0], 0.5) is None


def test_a_histogram_may_end_before_the_last_bucket() -> None:
    full = count([0.001, 0.002, 0.004])
    short = full[: max(bucket for bucket, n in enumerate(full) if n) + 1]
    assert len(short) < len(full)
    assert [quantile(short, share) for share in SHARES] == [quantile(full, share) for share in SHARES]
    assert cumulate(short, [1, BUCKETS]) == cumulate(full, [1, BUCKETS]) == [0, 3]


def test_cumulated_counts_are_those_up_to_each_bound() -> None:
    values = [0.3, 0.7, 1.5, 1.6, 3.0, 100.0]
    buckets = range(0, BUCKETS + 1, 8)
    expected = [sum(value < bound(bucket) for value in values) for bucket in buckets]
    assert cumulate(count(values), buckets) == expected
