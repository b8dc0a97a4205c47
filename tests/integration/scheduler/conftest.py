"""A scheduler's surroundings: AWS clients, a bucket of the test's own."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.contract.location import Location
from services.platform.aws import Aws
from services.platform.database import Database, connect_database
from services.platform.settings import Settings
from services.scheduler import slots
from services.scheduler.loop import Context, Step
from services.scheduler.loops import finish
from tests.integration.engine.play import Play, set_up
from tests.invariants import TERMINAL, assert_invariants


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step waits for all that it has begun, however busy the machine is: tests see what it did."""
    monkeypatch.setattr(slots, "PATIENCE_SECONDS", 60.0)


@pytest.fixture
def impatient(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step waits for none that it has begun."""
    monkeypatch.setattr(slots, "PATIENCE_SECONDS", 0.01)


@pytest.fixture
async def other(context: Context, database_url: str) -> AsyncIterator[Context]:
    """A second scheduler."""
    database = await connect_database(database_url)
    yield Context(database, context.aws, context.settings)
    await database.close()


async def drive(context: Context, *steps: Step, until: Callable[[], Awaitable[Any]], seconds: float = 20.0) -> None:
    """Take the steps in turn until the condition holds."""
    deadline = time.monotonic() + seconds
    while not await until():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        for step in steps:
            await step(context)
        await asyncio.sleep(0)


async def finish_job(context: Context, play: Play, job_id: UUID, *steps: Step) -> dict[str, Any]:
    """Take the steps of finish (and others, if given) until the job has ended; returns its row."""

    async def ended() -> bool:
        return (await play.job(job_id))["state"] in TERMINAL

    await drive(context, finish.step, *steps, until=ended)
    await assert_invariants(context.database, job_id)
    return await play.job(job_id)


async def end_put_off(context: Context) -> None:
    """Whatever was put off may be tried again; the order in which it was tried stays."""
    await context.database.execute("UPDATE stages SET put_off_at = put_off_at - interval '1 hour'")


@dataclass(frozen=True)
class Bucket:
    """The test's objects."""

    s3: Any
    name: str

    async def put(self, key: str, body: bytes) -> str:
        """Write an object; returns its URI."""
        await self.s3.put_object(Bucket=self.name, Key=key, Body=body)
        return Location(self.name, key).uri

    async def get(self, uri: str) -> bytes:
        location = Location.parse(uri)
        answer = await self.s3.get_object(Bucket=location.bucket, Key=location.key)
        async with answer["Body"] as body:
            data: bytes = await body.read()
            return data

    async def etag(self, key: str) -> str:
        return str((await self.s3.head_object(Bucket=self.name, Key=key))["ETag"])

    async def delete(self, uri: str) -> None:
        location = Location.parse(uri)
        await self.s3.delete_object(Bucket=location.bucket, Key=location.key)

    async def unfinished_uploads(self) -> list[str]:
        """The keys of multipart uploads that are neither completed nor aborted."""
        answer = await self.s3.list_multipart_uploads(Bucket=self.name)
        return [upload["Key"] for upload in answer.get("Uploads", [])]


@pytest.fixture
def bucket(aws: Aws, settings: Settings) -> Bucket:
    return Bucket(aws.s3, settings.bucket)


@pytest.fixture
def context(database: Database, aws: Aws, settings: Settings) -> Context:
    return Context(database, aws, settings)


@dataclass(frozen=True)
class Queue:
    """A pool's SQS queue."""

    sqs: Any
    url: str

    async def receive(self) -> list[str]:
        """The bodies of all messages that are there; they are deleted."""
        bodies: list[str] = []
        while True:
            answer = await self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10, WaitTimeSeconds=0)
            messages = answer.get("Messages", [])
            if not messages:
                return bodies
            bodies += [message["Body"] for message in messages]
            entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
            await self.sqs.delete_message_batch(QueueUrl=self.url, Entries=entries)


@pytest.fixture
async def queue(aws: Aws) -> Queue:
    answer = await aws.sqs.create_queue(QueueName=f"test-{uuid4().hex}")
    return Queue(aws.sqs, answer["QueueUrl"])


@pytest.fixture
async def play(database: Database, settings: Settings, queue: Queue) -> Play:
    """A grid with the pool `default`, of two slots, and the processor `noop`; workers and users are the test's."""
    return await set_up(database, settings, queue_url=queue.url)
