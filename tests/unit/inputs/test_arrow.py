"""A footer is read into memory, so it says how long it is, and is not believed whatever it says."""

import pytest

from services.inputs.arrow.footer import ArrowError, footer_bytes


def tail(footer: int) -> bytes:
    return b"\0" * 100 + footer.to_bytes(4, "little", signed=True) + b"ARROW1"


@pytest.mark.parametrize("footer", [-1, 0x7FFFFFFF, 60_000_000])
def test_a_footer_of_no_likely_length_is_refused(footer: int) -> None:
    with pytest.raises(ArrowError, match=f"s3://b/k .* a footer of {footer + 10} bytes"):
        footer_bytes("s3://b/k", tail(footer), 1 << 40)


def test_a_footer_is_as_long_as_it_says_its_end_included() -> None:
    assert footer_bytes("s3://b/k", tail(50), 1000) == 60
