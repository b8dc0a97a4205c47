"""A pool with queues, jobs whose tasks are planned and dispatched by hand, and nodes that run in this process."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.contract.location import Location
from services.contract.message import Message
from services.engine import pools, processors, submission, transitions
from services.engine.spec import JobSpec, ProcessorSpec
from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings, WorkerSettings
from services.worker.node.node import Node
from tests.roles import as_role
from tests.until import until


class InProcessGrid:
    """What the scheduler does, step by step, and what can be seen from outside."""

    def __init__(self, database: Database, aws: Aws, settings: WorkerSettings) -> None:
        self.database = database
        self.aws = aws
        self.settings = settings
        self.queue_url = ""
        self.dead_letter_url = ""

    async def create_pool(self) -> None:
        urls = [(await self.aws.sqs.create_queue(QueueName=f"test-{uuid4().hex}"))["QueueUrl"] for _ in range(2)]
        self.queue_url, self.dead_letter_url = urls
        async with self.database.acquire() as connection:
            await pools.register_pool(
                connection,
                "default",
                queue_url=self.queue_url,
                dead_letter_url=self.dead_letter_url,
                group_name=None,
                slots=2,
            )

    async def submit(self, processor: dict[str, Any], inputs: Sequence[Any], /, **stage: Any) -> UUID:
        """A job of one stage with these task inputs, all ready; a failure is final unless `retry` says otherwise."""
        stages = [{"processor": "p", "retry": {"max_attempts": 1}} | stage]
        if stage.get("fan_out"):
            stages.append({"processor": "next"})
        spec = JobSpec.model_validate({"input": {"type": "range", "count": len(inputs)}, "stages": stages})
        async with self.database.acquire() as connection, connection.transaction():
            await processors.register_processor(connection, "p", ProcessorSpec.model_validate(processor))
            await processors.register_processor(connection, "next", ProcessorSpec(builtin="noop"))
            job_id = await submission.submit_job(connection, spec, settings=self.settings)
            await transitions.plan_tasks(connection, job_id, 0, 0, inputs)
        return job_id

    async def dispatch(self, job_id: UUID, *, bundle_tasks_max: int = 1, times: int = 1) -> list[Message]:
        """Queue all ready tasks and send each bundle's message this many times."""
        async with self.database.acquire() as connection:
            messages = await transitions.dispatch(
                connection,
                job_id,
                0,
                pool="default",
                tasks_max=100_000,
                bundle_tasks_max=bundle_tasks_max,
                resend_seconds=60,
            )
        for message in messages * times:
            await self.send(message.encode())
        return messages

    async def send(self, body: str) -> None:
        await self.aws.sqs.send_message(QueueUrl=self.queue_url, MessageBody=body)

    async def messages(self, queue_url: str) -> list[str]:
        """What a queue still offers."""
        answer = await self.aws.sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10)
        return [message["Body"] for message in answer.get("Messages", [])]

    async def queue_depth(self) -> int:
        """Messages in the queue, offered or received and not deleted."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = await self.aws.sqs.get_queue_attributes(QueueUrl=self.queue_url, AttributeNames=names)
        return sum(int(answer["Attributes"][name]) for name in names)

    async def run(self, *job_ids: UUID, bundle_tasks_max: int = 1) -> list[asyncpg.Record]:
        """Dispatch, run a node until every task has ended, and return the tasks.

        Call it once a test: the emulator may give the next message to the long poll that the node has left.
        """
        for job_id in job_ids:
            await self.dispatch(job_id, bundle_tasks_max=bundle_tasks_max)
        async with self.node():
            for job_id in job_ids:
                await self.ended(job_id)
        return [task for job_id in job_ids for task in await self.tasks(job_id)]

    @asynccontextmanager
    async def node(self, **settings: Any) -> AsyncIterator[Node]:
        """A running node, drained at the end."""
        node = Node(self.settings.model_copy(update=settings))
        running = asyncio.create_task(node.run())
        try:
            yield node
        finally:
            node.drain()
            async with asyncio.timeout(20):
                await running

    async def ended(self, job_id: UUID) -> None:
        await until(partial(self.has_ended, job_id))

    async def has_ended(self, job_id: UUID) -> bool:
        query = "SELECT count(*) = 0 FROM tasks WHERE job_id = $1 AND state IN ('ready', 'queued', 'running')"
        return bool(await self.database.fetchval(query, job_id))

    async def until(self, query: str, *arguments: Any) -> None:
        """Wait until the database says so."""

        async def holds() -> bool:
            return bool(await self.database.fetchval(query, *arguments))

        await until(holds)

    async def tasks(self, job_id: UUID) -> list[asyncpg.Record]:
        return list(await self.database.fetch("SELECT * FROM tasks WHERE job_id = $1 ORDER BY stage, index", job_id))

    async def attempts(self, job_id: UUID) -> list[asyncpg.Record]:
        query = "SELECT * FROM attempts WHERE job_id = $1 ORDER BY stage, index, attempt"
        return list(await self.database.fetch(query, job_id))

    async def worker(self) -> asyncpg.Record:
        row = await self.database.fetchrow("SELECT * FROM workers ORDER BY started_at DESC LIMIT 1")
        assert row is not None
        return row

    async def put(self, key: str, body: bytes) -> dict[str, str]:
        """An object to work on: its uri and etag."""
        answer = await self.aws.s3.put_object(Bucket=self.settings.bucket, Key=key, Body=body)
        return {"uri": f"s3://{self.settings.bucket}/{key}", "etag": answer["ETag"]}

    async def get(self, uri: str) -> bytes:
        where = Location.parse(uri)
        answer = await self.aws.s3.get_object(Bucket=where.bucket, Key=where.key)
        body: bytes = await answer["Body"].read()
        return body

    async def lines(self, uri: str) -> list[Any]:
        """An object's lines of JSON."""
        return [json.loads(line) for line in (await self.get(uri)).splitlines()]

    async def keys(self) -> list[str]:
        """Of all that jobs have written."""
        s3, bucket = self.aws.s3, self.settings.bucket
        answers = [await s3.list_objects_v2(Bucket=bucket, Prefix=prefix) for prefix in ("interim/", "jobs/")]
        return [entry["Key"] for answer in answers for entry in answer.get("Contents", [])]


def etag(body: bytes) -> str:
    """Of an object that was put at once."""
    return f'"{hashlib.md5(body).hexdigest()}"'


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """The directory that the nodes take processors' modules from."""
    directory = tmp_path / "code"
    directory.mkdir()
    return directory


@pytest.fixture
def tells_outside(grid: InProcessGrid) -> None:
    """The tasks tell of themselves in files outside of their own directories, which a sandbox would keep them from."""
    grid.settings = grid.settings.model_copy(update={"isolation": "process"})


@pytest.fixture
async def grid(database: Database, aws: Aws, settings: Settings, tmp_path: Path, code: Path) -> InProcessGrid:
    worker = WorkerSettings(
        **settings.model_dump(exclude={"database_url", "lease_seconds", "heartbeat_seconds"}),
        database_url=as_role(settings.database_url, "worker"),
        slots=2,
        scratch=str(tmp_path / "scratch"),
        cache=str(tmp_path / "cache"),
        processor_path=str(code),
        receive_wait_seconds=1,
        heartbeat_seconds=0.1,
        lease_seconds=15.0,
        drain_seconds=10.0,
    )
    grid = InProcessGrid(database, aws, worker)
    await grid.create_pool()
    return grid
