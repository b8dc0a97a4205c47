"""A peer gets as many tasks as its pace allows."""

import pytest

from bench.peers.program import choose_sizes


@pytest.mark.parametrize(
    ("tasks_per_second", "sizes"),
    [
        (1_000_000.0, [10_000, 100_000, 1_000_000]),
        (5_000.0, [10_000, 100_000]),
        (1_000.0, [10_000]),
        (200.0, [3_000]),
        (50.0, [1_000]),
        (1.0, [1_000]),
    ],
)
def test_sizes(tasks_per_second: float, sizes: list[int]) -> None:
    assert choose_sizes(tasks_per_second) == sizes
