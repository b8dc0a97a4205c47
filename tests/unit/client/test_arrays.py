"""Array jobs as Slurm writes them."""

from typing import Any

import pytest

from piecework.arrays import parse_array


@pytest.mark.parametrize(
    ("text", "numbers", "running_max"),
    [
        ("0-15", {"start": 0, "stop": 16}, None),
        ("1-100:4", {"start": 1, "stop": 101, "step": 4}, None),
        ("1-9:2%4", {"start": 1, "stop": 10, "step": 2}, 4),
        ("0-31%1", {"start": 0, "stop": 32}, 1),
        ("3,7,9", {"values": [3, 7, 9]}, None),
        ("9,3-5,4", {"values": [3, 4, 5, 9]}, None),
        ("1-5:2,10%2", {"values": [1, 3, 5, 10]}, 2),
        ("5", {"values": [5]}, None),
        ("5-5", {"values": [5]}, None),
        (" 1-3 ", {"start": 1, "stop": 4}, None),
    ],
)
def test_an_array_is_a_range(text: str, numbers: dict[str, Any], running_max: int | None) -> None:
    assert parse_array(text) == ({"type": "range", **numbers}, running_max)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not an array; write 1-100"),
        ("a", "'a' is not an array"),
        ("1-", "'1-' is not an array"),
        ("-1-5", "'-1-5' is not an array"),
        ("1-5:0", "'1-5:0': '0' is not a whole number from 1"),
        ("1-5%0", "'1-5%0': '0' is not a whole number from 1"),
        ("1-5%", "'1-5%': '' is not a whole number from 1"),
        ("9-1", "'9-1': 9-1 ends before it begins; write the smaller number first"),
    ],
)
def test_what_is_not_an_array_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message):
        parse_array(text)
