"""Rates: how many requests a key may send, and how many bad keys an address. Token buckets in this process's memory.

Each process of a service counts for itself, so n of them behind a load balancer let n times as much through.
"""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from services.platform.auth import hash_secret
from services.platform.database import Database

BURST_SECONDS = 10.0  # a bucket holds what comes in this time
ENTRIES_MAX = 10_000  # buckets that are kept; the least recently used go
OVERRIDE_SECONDS = 60.0  # how late a key's own rate takes effect

_OVERRIDE = "SELECT (quotas ->> 'requests_per_second')::float8 FROM api_keys WHERE key_id = $1"


class TooManyRequests(Exception):
    """The bucket is empty; `policy` names it."""

    def __init__(self, policy: str, message: str, per_second: float, wait_seconds: float) -> None:
        super().__init__(message)
        self._policy = policy
        self._per_second = per_second
        self._wait_seconds = max(1, math.ceil(wait_seconds))

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After (RFC 9110), and RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10)."""
        quota = max(1, int(self._per_second * BURST_SECONDS))
        return {
            "Retry-After": str(self._wait_seconds),
            "RateLimit-Policy": f'"{self._policy}";q={quota};w={int(BURST_SECONDS)}',
            "RateLimit": f'"{self._policy}";r=0;t={self._wait_seconds}',
        }


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float

    def fill(self, per_second: float, now: float) -> None:
        room = max(1.0, per_second * BURST_SECONDS)
        self.tokens = min(room, self.tokens + (now - self.at) * per_second)
        self.at = now

    def wait_seconds(self, per_second: float) -> float:
        """How long until there is a token; 0 if there is one."""
        return max(0.0, (1.0 - self.tokens) / per_second)


class Rates:
    """The buckets of one process."""

    def __init__(
        self, requests_per_second: float, failures_per_second: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._requests_per_second = requests_per_second
        self._failures_per_second = failures_per_second
        self._now = now
        self._buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()
        self._own: OrderedDict[UUID, tuple[float, float]] = OrderedDict()  # a key's rate, and when it was read
        self._good: OrderedDict[str, None] = OrderedDict()  # hashes of headers that named a key

    def admit(self, address: str, authorization: str | None) -> None:
        """Raises TooManyRequests if the address has sent too many bad keys, unless this one was good before."""
        if authorization is not None and hash_secret(authorization) in self._good:
            return
        bucket, rate = self._bucket(_network(address), self._failures_per_second), self._failures_per_second
        if wait_seconds := bucket.wait_seconds(rate):
            message = f"too many requests without a good API key come from {address}; send a good one, or wait"
            raise TooManyRequests("address", message, rate, wait_seconds)

    def fail(self, address: str, authorization: str | None) -> None:
        """The address has sent a bad key."""
        self._bucket(_network(address), self._failures_per_second).tokens -= 1
        self._good.pop(hash_secret(authorization or ""), None)

    async def count(self, database: Database, key_id: UUID, authorization: str | None) -> None:
        """Count a request of this key. Raises TooManyRequests."""
        _keep(self._good, hash_secret(authorization or ""), None)
        rate = await self._rate(database, key_id)
        bucket = self._bucket(key_id, rate)
        if wait_seconds := bucket.wait_seconds(rate):
            message = (
                f"this API key sends more than {rate:g} requests a second (requests_per_second): wait, ask for more at "
                "once, or have an operator raise its quota with `piecework quotas set`"
            )
            raise TooManyRequests("key", message, rate, wait_seconds)
        bucket.tokens -= 1

    async def _rate(self, database: Database, key_id: UUID) -> float:
        rate, read_at = self._own.get(key_id, (0.0, -math.inf))
        if self._now() - read_at > OVERRIDE_SECONDS:
            rate = await database.fetchval(_OVERRIDE, key_id) or self._requests_per_second
            _keep(self._own, key_id, (rate, self._now()))
        return rate

    def _bucket(self, who: Hashable, per_second: float) -> _Bucket:
        now = self._now()
        bucket = self._buckets.get(who) or _Bucket(max(1.0, per_second * BURST_SECONDS), now)
        bucket.fill(per_second, now)
        _keep(self._buckets, who, bucket)
        return bucket


def _keep(entries: OrderedDict[Any, Any], key: Hashable, value: Any) -> None:
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > ENTRIES_MAX:
        entries.popitem(last=False)


def _network(address: str) -> str:
    """Whoever has an IPv6 address has 2⁶⁴ of them."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
