"""Token buckets: what a key, and who has no key, may ask for."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.platform import rates
from services.platform.rates import Rates, TooManyRequests

ADDRESS = "192.0.2.1"


@dataclass
class Clock:
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


class Quotas:
    """The database, as far as rates read it."""

    def __init__(self) -> None:
        self.own: dict[UUID, float] = {}

    async def fetchval(self, statement: str, key_id: UUID) -> float | None:
        return self.own.get(key_id)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quotas() -> Any:
    return Quotas()


def limits(clock: Clock) -> Rates:
    return Rates(requests_per_second=2.0, failures_per_second=0.5, now=clock)


async def sent(limited: Rates, quotas: Any, key_id: UUID, requests: int) -> int:
    """How many of the requests get through."""
    for number in range(requests):
        try:
            await limited.count(quotas, key_id, f"Bearer {key_id}")
        except TooManyRequests:
            return number
    return requests


async def test_ten_seconds_worth_may_come_at_once_and_then_what_the_rate_lets_through(
    clock: Clock, quotas: Any
) -> None:
    limited, key_id = limits(clock), uuid4()

    assert await sent(limited, quotas, key_id, 100) == 20
    clock.seconds += 3.0
    assert await sent(limited, quotas, key_id, 100) == 6
    clock.seconds += 3600.0
    assert await sent(limited, quotas, key_id, 100) == 20


async def test_each_key_has_its_own_rate_and_an_operator_may_change_it(clock: Clock, quotas: Any) -> None:
    limited, busy, other = limits(clock), uuid4(), uuid4()
    await sent(limited, quotas, busy, 100)

    assert await sent(limited, quotas, other, 1) == 1
    quotas.own[busy] = 50.0
    clock.seconds += rates.OVERRIDE_SECONDS + 1
    await sent(limited, quotas, busy, 1)
    clock.seconds += 100.0
    assert await sent(limited, quotas, busy, 1000) == 500


async def test_the_answer_says_how_long_to_wait(clock: Clock, quotas: Any) -> None:
    limited, key_id = Rates(0.2, 1.0, clock), uuid4()
    await sent(limited, quotas, key_id, 2)

    with pytest.raises(TooManyRequests, match=r"more than 0\.2 requests a second") as refused:
        await limited.count(quotas, key_id, None)

    assert refused.value.headers == {
        "Retry-After": "5",
        "RateLimit-Policy": '"key";q=2;w=10',
        "RateLimit": '"key";r=0;t=5',
    }


async def test_an_address_that_sends_bad_keys_is_refused_before_its_next_is_looked_up(
    clock: Clock, quotas: Any
) -> None:
    limited = limits(clock)
    await limited.count(quotas, uuid4(), "Bearer good")
    for number in range(5):
        limited.admit(ADDRESS, f"Bearer {number}")
        limited.fail(ADDRESS, f"Bearer {number}")

    with pytest.raises(TooManyRequests, match=ADDRESS):
        limited.admit(ADDRESS, "Bearer 6")
    with pytest.raises(TooManyRequests):
        limited.admit(ADDRESS, None)
    limited.admit(ADDRESS, "Bearer good")  # whoever shares the address, and has a key
    limited.admit("192.0.2.2", "Bearer 6")
    clock.seconds += 2.0
    limited.admit(ADDRESS, "Bearer 6")


async def test_a_revoked_key_is_no_longer_a_good_one(clock: Clock, quotas: Any) -> None:
    limited = limits(clock)
    await limited.count(quotas, uuid4(), "Bearer revoked")
    for _ in range(5):
        limited.fail(ADDRESS, "Bearer revoked")

    with pytest.raises(TooManyRequests):
        limited.admit(ADDRESS, "Bearer revoked")


def test_all_addresses_of_a_network_of_ipv6_count_as_one(clock: Clock) -> None:
    limited = limits(clock)
    for number in range(5):
        limited.fail(f"2001:db8::{number}", None)

    with pytest.raises(TooManyRequests):
        limited.admit("2001:db8::ffff", None)
    limited.admit("2001:db8:0:1::1", None)


def test_memory_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "ENTRIES_MAX", 10)
    limited = limits(clock)
    for number in range(100):
        limited.fail(f"192.0.2.{number}", None)

    assert len(limited._buckets) == 10
