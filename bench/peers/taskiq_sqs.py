"""taskiq on SQS (taskiq-aio-sqs): two processes, messages sent and received by tens, acked once saved in Redis.

The task of which the latency is measured is not held back for a batch.
"""

import asyncio
import os
import time

import boto3
from taskiq import AsyncTaskiqTask
from taskiq_aio_sqs import SQSBroker
from taskiq_redis import RedisAsyncResultBackend

from bench.peers.requests import count_requests

PACKAGES = ("taskiq", "taskiq-aio-sqs", "taskiq-redis", "aiobotocore", "redis")
WORKERS = ["taskiq worker bench.peers.taskiq_sqs:broker --workers 2 --max-prefetch 100 --log-level WARNING"]

_TIMEOUT_SECONDS = 120.0
_AT_ONCE = 100  # of the submissions under way

count_requests()
broker = SQSBroker(
    "taskiq",
    endpoint_url=os.environ["AWS_ENDPOINT_URL"],
    aws_access_key_id="test",
    aws_secret_access_key="test",
    max_number_of_messages=10,
    wait_time_seconds=20,
    enable_batching=True,
    batch_timeout=0.1,
    skip_batch_tasks=["started"],
).with_result_backend(RedisAsyncResultBackend(os.environ["REDIS_URL"], max_connection_pool_size=_AT_ONCE))


@broker.task(task_name="nothing")
async def nothing() -> None:
    pass


@broker.task(task_name="started")
async def started() -> float:
    return time.time()


_runner = asyncio.Runner()


def prepare() -> None:
    boto3.client("sqs").create_queue(QueueName="taskiq")
    _runner.run(broker.startup())


def run(tasks: int) -> None:
    _runner.run(_run(tasks))


async def _run(tasks: int) -> None:
    submitted: list[AsyncTaskiqTask[None]] = []
    for first in range(0, tasks, _AT_ONCE):
        submitted += await asyncio.gather(*(nothing.kiq() for _ in range(min(_AT_ONCE, tasks - first))))
    for task in submitted:
        result = await task.wait_result(check_interval=0.02, timeout=_TIMEOUT_SECONDS)
        result.raise_for_error()


def start_one() -> float:
    return _runner.run(_start_one())


async def _start_one() -> float:
    task = await started.kiq()
    result = await task.wait_result(check_interval=0.005, timeout=_TIMEOUT_SECONDS)
    return float(result.return_value)
