"""JSON numbers and text, in and out: every digit is kept, and what is not JSON is refused."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contract.task_error import Malformed
from services.inputs.json_text import encode_json, parse_json

numbers = st.one_of(
    st.integers(),
    st.integers(min_value=-(10**50), max_value=10**50),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.decimals(allow_nan=False, allow_infinity=False, places=30),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(allow_nan=False, allow_infinity=False).map("{:.17g}".format),
).map(str)


@given(numbers, st.booleans())
def test_every_number_comes_out_as_it_came_in(number: str, beside_null: bool) -> None:
    text = f'{{"a": [{number}], "b": {"null" if beside_null else 1}}}'
    (kept,) = json.loads(encode_json(parse_json(text.encode())), parse_float=Decimal)["a"]
    digits = len(Decimal(number).as_tuple().digits)
    assert kept == Decimal(number) or (digits == 17 and f"{float(kept):.17g}" == f"{float(number):.17g}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.5", 1.5),
        ("1.50", 1.5),
        ("0.30000000000000004", 0.1 + 0.2),
        ("0.10000000000000001", 0.1),  # as C prints it
        ("5.960464477539063e-8", 2**-24),  # as Rust prints it: in the middle of two texts of 16 digits
        ("9007199254740993.0", Decimal("9007199254740993.0")),
        ("18446744073709551616", 1 << 64),
        ("1e400", Decimal("1e400")),
        ("1e-400", Decimal("1e-400")),
        ('{"a":1,"a":2}', {"a": 2}),
        ('"\\ud83d\\ude00"', "😀"),
    ],
)
def test_what_a_function_gets(text: str, value: Any) -> None:
    found = parse_json(text.encode())
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", "9" * 5000, '"\\udc00"', '{"\\ud800":1}', "1e9999999999999999999"]
)
def test_what_is_not_json_or_can_not_be_held(text: str) -> None:
    with pytest.raises(Malformed, match=r"^not (JSON|Unicode)"):
        parse_json(text.encode())


@pytest.mark.parametrize(
    "value", [float("nan"), [None, float("inf")], {"d": Decimal(1), "n": [None, float("nan")]}, Decimal("NaN"), {1, 2}]
)
def test_what_json_can_not_hold_is_refused(value: Any) -> None:
    with pytest.raises(Malformed, match="can't be written as JSON"):
        encode_json(value)
