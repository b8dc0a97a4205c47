"""What a process measures of itself, for Prometheus; the library adds process_* and python_* of its own.

Names end in their unit, counters in _total (https://prometheus.io/docs/practices/naming). No label grows with the jobs.
"""

from collections.abc import Iterable
from weakref import WeakSet

import asyncpg
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from services.platform.version import VERSION

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, which nobody asks for

_SHORT_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

REQUEST_SECONDS = Histogram(
    "piecework_http_request_duration_seconds",
    "Time to answer a request",
    ["method", "route", "status"],
    buckets=_SHORT_SECONDS,
)
STEP_SECONDS = Histogram(
    "piecework_loop_step_duration_seconds", "Time of a loop's step", ["loop"], buckets=_SHORT_SECONDS
)
LOOP_FAILURES = Counter("piecework_loop_failures", "Steps of a loop that failed", ["loop"])
LOOP_SUCCEEDED_AT = Gauge(
    "piecework_loop_last_success_timestamp_seconds", "When a step of the loop last succeeded", ["loop"]
)
ACQUIRE_SECONDS = Histogram(
    "piecework_database_acquire_duration_seconds", "Wait for a connection to the database", buckets=_SHORT_SECONDS
)
_BUILD = Gauge("piecework_build_info", "The release that the process runs", ["version"])
_BUILD.labels(VERSION).set(1)


class MeasuredPool(asyncpg.Pool):
    """A pool of connections that tells how long its users wait for one, and how many are in use."""

    async def _acquire(self, timeout: float | None) -> asyncpg.pool.PoolConnectionProxy:
        _POOLS.pools.add(self)
        with ACQUIRE_SECONDS.time():
            connection: asyncpg.pool.PoolConnectionProxy = await super()._acquire(timeout)  # type: ignore[misc]
            return connection


class _Pools(Collector):
    """The connections of all pools of the process that are in use."""

    def __init__(self) -> None:
        self.pools: WeakSet[MeasuredPool] = WeakSet()

    def collect(self) -> Iterable[Metric]:
        pools = list(self.pools)
        open_, idle = sum(pool.get_size() for pool in pools), sum(pool.get_idle_size() for pool in pools)
        family = GaugeMetricFamily(
            "piecework_database_connections", "Connections to the database, by state; max is what there may be",
            labels=["state"],
        )  # fmt: skip
        for state, count in (("idle", idle), ("busy", open_ - idle), ("max", sum(p.get_max_size() for p in pools))):
            family.add_metric([state], count)
        yield family


_POOLS = _Pools()
REGISTRY.register(_POOLS)


def expose(accept: str, further: Collector | None = None) -> tuple[bytes, str]:
    """The process's metrics, and those of `further`, in the format that an `Accept` header asks for, and its type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(REGISTRY)
    if further is not None:
        registry.register(further)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
