"""Celery on Redis: a prefork worker of two processes, late acks, a prefetch for short tasks, results in Redis."""

import os
import time

from celery import Celery, group

PACKAGES = ("celery", "kombu", "redis")
WORKERS = [
    "celery --quiet -A bench.peers.celery_redis worker --concurrency 2 --loglevel WARNING "
    "--without-gossip --without-mingle --without-heartbeat"
]

app = Celery("bench", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=128, broker_connection_retry_on_startup=True)


@app.task
def nothing() -> None:
    pass


@app.task
def started() -> float:
    return time.time()


def run(tasks: int) -> None:
    """`get` raises what a task raised."""
    group(nothing.s() for _ in range(tasks)).apply_async().get()


def start_one() -> float:
    return float(started.delay().get())
