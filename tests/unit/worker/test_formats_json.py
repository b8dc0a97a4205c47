"""JSON is read and written as the standard library does, though quicker."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contract.task_error import Malformed
from services.inputs.json_text import encode_json, parse_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just("null"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def alike(a: Any, b: Any) -> bool:
    """Equal, of the same types, and with the same sign of zero."""
    return repr(a) == repr(b)


@given(values, st.booleans())
def test_what_the_standard_library_reads_is_read_alike(value: Any, ensure_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ensure_ascii)
    raw = text.encode(errors="surrogatepass")
    try:
        read = parse_json(raw)
    except Malformed:
        assert "NaN" in text or "Infinity" in text or not raw.isascii()
        return
    assert alike(read, json.loads(text))


@given(values)
def test_what_is_written_is_what_was_meant(value: Any) -> None:
    try:
        written = encode_json(value)
    except Malformed:
        text = json.dumps(value, ensure_ascii=False)
        assert "NaN" in text or "Infinity" in text or any("\ud800" <= c <= "\udfff" for c in text)
        return
    assert alike(json.loads(written), value)


@pytest.mark.parametrize("value", [math.nan, [math.inf], {"a": -math.inf}])
def test_a_number_that_json_has_not_is_refused_not_written_as_null(value: Any) -> None:
    with pytest.raises(Malformed):
        encode_json(value)


@pytest.mark.parametrize("number", [2**63, -(2**70), 10**400, 1.2345678901234567890123])
def test_long_numbers_keep_every_digit(number: Any) -> None:
    assert alike(parse_json(json.dumps(number).encode()), number)
    assert json.loads(encode_json(number)) == number
