"""Whole tasks are shared out in proportion."""

import pytest

from services.engine.pool_tasks import share_out


@pytest.mark.parametrize(
    ("total", "sizes", "shares"),
    [
        (7, {"spot": 4, "on-demand": 3}, {"spot": 4, "on-demand": 3}),
        (4, {"spot": 1, "on-demand": 4}, {"spot": 1, "on-demand": 3}),
        (5, {"spot": 0, "on-demand": 10}, {"spot": 0, "on-demand": 5}),
        (1, {"a": 1, "b": 1, "c": 1}, {"a": 0, "b": 1, "c": 0}),
        (0, {"a": 3, "b": 5}, {"a": 0, "b": 0}),
    ],
)
def test_shares_are_in_proportion_and_add_up(total: int, sizes: dict[str, int], shares: dict[str, int]) -> None:
    assert share_out(total, sizes) == shares
