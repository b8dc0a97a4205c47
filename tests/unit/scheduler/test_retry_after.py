"""Retry-After, as endpoints of webhooks send it (RFC 9110, section 10.2.3)."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from services.scheduler.outgoing import RETRY_AFTER_SECONDS_MAX, retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("Mon, 99 Foo 2026 00:00:00 GMT", None),
        ("0", 0),
        (" 120 ", 120),
        ("9" * 400, RETRY_AFTER_SECONDS_MAX),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_SECONDS_MAX),
    ],
)
def test_a_time_to_wait_is_read_within_bounds(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_a_date_is_a_time_to_wait() -> None:
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=300), usegmt=True)

    assert 295 < (retry_after(value) or 0) <= 300
