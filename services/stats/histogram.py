"""Log-spaced histograms of run times: bucket b, counted from 1, holds seconds from bound(b - 1) up to bound(b).

Eight buckets an octave from about 1 µs to 12 days: a quantile is off by a bucket's width, 9 %, at most. The first
bucket also holds everything shorter and the last one everything longer.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate

BUCKETS = 320
PER_OCTAVE = 8
_FIRST_OCTAVE = -20  # the first bucket starts at 2 ** -20 s
WIDTH: float = 2.0 ** (1 / PER_OCTAVE)  # a bucket's upper bound divided by its lower one


def bound(bucket: int) -> float:
    """The upper bound of a bucket, in seconds."""
    return float(2.0 ** (bucket / PER_OCTAVE + _FIRST_OCTAVE))


# What SQL's width_bucket(seconds, …) + 1 needs to give the bucket.
INNER_BOUNDS: list[float] = [bound(bucket) for bucket in range(1, BUCKETS)]


def quantile(counts: Sequence[int], share: float) -> float | None:
    """The time, in seconds, within which `share` (0 to 1) of the counted attempts ran; None if there are none.

    `counts` may end early: buckets beyond its end are empty.
    """
    rank = share * sum(counts)
    below = 0
    for bucket, count in enumerate(counts, start=1):
        if count and below + count >= rank:
            return float(bound(bucket - 1) * WIDTH ** ((rank - below) / count))
        below += count
    return None


def cumulate(counts: Sequence[int], buckets: Iterable[int]) -> list[int]:
    """How many are counted up to the end of each of `buckets`."""
    sums = [0, *accumulate(counts)]
    return [sums[min(bucket, len(counts))] for bucket in buckets]
