"""Dramatiq on Redis: two processes of eight threads (its default for two cores), results in Redis."""

import os
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

PACKAGES = ("dramatiq", "redis")
WORKERS = ["dramatiq bench.peers.dramatiq_redis --processes 2 --threads 8"]

_TIMEOUT_MS = 120_000

broker = RedisBroker(url=os.environ["REDIS_URL"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["REDIS_URL"])))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def nothing() -> None:
    pass


@dramatiq.actor(store_results=True)
def started() -> float:
    return time.time()


def run(tasks: int) -> None:
    """`get_results` raises what a task raised."""
    submitted = dramatiq.group(nothing.message() for _ in range(tasks)).run()
    for _ in submitted.get_results(block=True, timeout=_TIMEOUT_MS):
        pass


def start_one() -> float:
    return float(started.send().get_result(block=True, timeout=_TIMEOUT_MS))
