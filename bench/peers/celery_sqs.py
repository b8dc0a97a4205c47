"""Celery on SQS: as on Redis, long polls of 20 s; the results are in Redis, since SQS keeps none."""

import os
import time
from urllib.parse import urlsplit

from celery import Celery, group

from bench.peers.requests import count_requests

PACKAGES = ("celery", "kombu", "boto3", "pycurl", "redis")
WORKERS = [
    "celery --quiet -A bench.peers.celery_sqs worker --concurrency 2 --loglevel WARNING "
    "--without-gossip --without-mingle --without-heartbeat"
]

count_requests()
app = Celery(
    "bench",
    broker=f"sqs://test:test@{urlsplit(os.environ['AWS_ENDPOINT_URL']).netloc}",
    backend=os.environ["REDIS_URL"],
)
app.conf.update(
    broker_transport_options={"region": "us-east-1", "is_secure": False, "wait_time_seconds": 20},
    task_acks_late=True,
    worker_prefetch_multiplier=128,
    broker_connection_retry_on_startup=True,
)


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
