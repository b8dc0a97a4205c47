"""Messages become jobs: once for each event, whatever is told twice, comes late or makes no sense."""

import asyncio
import json
import secrets
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.platform.database import new_id
from services.scheduler.loop import Context
from services.scheduler.loops import triggers
from tests.integration.engine.play import Play
from tests.integration.scheduler.conftest import Bucket, Queue

JOB = {"name": "incoming", "input": {"type": "lines", "uri": "{uri}"}, "stages": [{"processor": "noop"}]}


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "WAIT_SECONDS", 0)


@dataclass(frozen=True)
class Listening:
    """A trigger and its queue."""

    context: Context
    trigger_id: UUID
    queue: Queue

    async def send(self, body: Any) -> None:
        await self.queue.sqs.send_message(QueueUrl=self.queue.url, MessageBody=json.dumps(body))

    async def left(self) -> int:
        """How many messages are in the queue, those that came to nothing included."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = await self.queue.sqs.get_queue_attributes(QueueUrl=self.queue.url, AttributeNames=names)
        return sum(int(answer["Attributes"][name]) for name in names)

    async def jobs(self) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.context.database.fetch("SELECT * FROM jobs ORDER BY job_id")]

    async def row(self) -> dict[str, Any]:
        row = await self.context.database.fetchrow("SELECT * FROM triggers WHERE trigger_id = $1", self.trigger_id)
        return dict(row or {})


async def listen(context: Context, job: dict[str, Any] = JOB, prefix: str = "", **attributes: str) -> Listening:
    trigger_id, name = new_id(), f"in-{uuid4().hex}"
    answer = await context.aws.sqs.create_queue(QueueName=name, Attributes=attributes)
    await context.database.execute(
        "INSERT INTO triggers (trigger_id, name, queue_url, prefix, job) VALUES ($1, $2, $3, $4, $5)",
        trigger_id,
        name,
        answer["QueueUrl"],
        prefix,
        job,
    )
    return Listening(context, trigger_id, Queue(context.aws.sqs, answer["QueueUrl"]))


def created(uri: str, sequencer: str = "0A") -> dict[str, Any]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    s3 = {"bucket": {"name": bucket}, "object": {"key": key, "size": 1, "sequencer": sequencer}}
    return {"Records": [{"eventName": "ObjectCreated:Put", "s3": s3}]}


@pytest.mark.both_emulators("DeleteMessage", "ReceiveMessage")
async def test_an_object_created_in_s3_submits_a_job(context: Context, play: Play, bucket: Bucket) -> None:
    listening = await listen(context, prefix=f"s3://{bucket.name}/incoming/")
    names = {"QueueUrl": listening.queue.url, "AttributeNames": ["QueueArn"]}
    arn = (await context.aws.sqs.get_queue_attributes(**names))["Attributes"]["QueueArn"]
    await context.aws.s3.put_bucket_notification_configuration(
        Bucket=bucket.name,
        NotificationConfiguration={
            "QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}],
        },
    )
    await bucket.put("elsewhere/a.csv", b"1\n")
    uri = await bucket.put("incoming/a b.csv", b"1\n")

    async with asyncio.timeout(10):
        while not await listening.jobs():
            assert await triggers.step(context)

    [job] = await listening.jobs()
    assert (job["name"], job["spec"]["input"]["uri"], job["state"]) == ("incoming", uri, "running")
    assert await listening.left() == 0
    trigger = await listening.row()
    assert (trigger["last_job_id"], trigger["last_error"]) == (job["job_id"], None)


async def test_an_event_told_again_or_by_two_messages_makes_one_job(
    context: Context, other: Context, play: Play
) -> None:
    listening = await listen(context)
    for sequencer in ("0A", "0A", "0B", "0A"):
        await listening.send(created("s3://b/k", sequencer))

    async with asyncio.timeout(10):
        while await listening.left():
            await asyncio.gather(triggers.step(context), triggers.step(other))

    assert len(await listening.jobs()) == 2


async def test_a_scheduler_that_dies_before_it_deletes_the_message_submits_once(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = await listen(context, VisibilityTimeout="0")
    await listening.send(created("s3://b/k"))

    async def die(**_: Any) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as dying:
        dying.setattr(context.aws.sqs, "delete_message", die)
        with pytest.raises(asyncio.CancelledError):
            await triggers.step(context)
    async with asyncio.timeout(10):
        while await listening.left():
            await triggers.step(context)

    assert len(await listening.jobs()) == 1


DEEP = created("s3://b/k") | {"deep": json.loads("[" * 900 + "]" * 900)}


@pytest.mark.parametrize(
    ("job", "body", "error"),
    [
        (JOB, ["no object"], "JSON list"),
        (JOB, {"type": "job.succeeded"}, "has no 'uri'"),
        (
            JOB | {"priority": "{message.p}"},
            created("s3://b/k") | {"p": 1000},
            ": priority: Input should be less than or equal to 100",
        ),
        (JOB | {"stages": [{"processor": "{message.p}"}]}, created("s3://b/k") | {"p": "none"}, "no such processor"),
        (JOB, {"Records": ["no event"]}, "no attribute"),
        (JOB, {"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": 5}}]}, "int"),
        (JOB, created("s3://b/k", sequencer=secrets.token_hex(20_000)), "index row"),
        (JOB | {"stages": [{"processor": "noop", "params": {"p": "{message}"}}]}, DEEP, "depth exceeded"),
        (JOB | {"labels": {"l": "{message.l}"}}, created("s3://b/k") | {"l": "a\0b"}, "message"),
    ],
)
async def test_a_message_that_makes_no_job_stays_and_says_why(
    context: Context, play: Play, job: dict[str, Any], body: Any, error: str
) -> None:
    listening = await listen(context, job)
    await listening.send(body)

    await triggers.step(context)

    assert await listening.jobs() == []
    assert await listening.left() == 1
    trigger = await listening.row()
    assert error in trigger["last_error"]
    assert (trigger["last_error_at"] is not None, trigger["last_message_at"]) == (True, None)


async def test_what_failed_last_stays_said_when_other_messages_become_jobs(context: Context, play: Play) -> None:
    listening = await listen(context)
    await listening.send({"no": "uri"})
    await triggers.step(context)
    failed = await listening.row()
    await listening.send(created("s3://b/k"))
    await triggers.step(context)

    trigger = await listening.row()
    assert trigger["last_job_id"] == (await listening.jobs())[0]["job_id"]
    assert (trigger["last_error"], trigger["last_error_at"]) == (failed["last_error"], failed["last_error_at"])
    assert "has no 'uri'" in trigger["last_error"]
    assert trigger["last_message_at"] > trigger["last_error_at"]

    await listening.send({"Records": ["no event"]})
    await triggers.step(context)

    trigger = await listening.row()
    assert "no attribute" in trigger["last_error"]
    assert trigger["last_error_at"] > trigger["last_message_at"]


async def test_many_triggers_leave_connections_to_others(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "LISTENS_AT_ONCE", 2)
    for _ in range(5):
        await listen(context)
    receive, now, most, times = context.aws.sqs.receive_message, 0, 0, 0

    async def count(**request: Any) -> Any:
        nonlocal now, most, times
        now, most, times = now + 1, max(most, now + 1), times + 1
        try:
            return await receive(**request)
        finally:
            now -= 1

    with monkeypatch.context() as counting:
        counting.setattr(context.aws.sqs, "receive_message", count)
        await triggers.step(context)

    assert (times, most) == (5, 2)


async def test_a_paused_trigger_leaves_its_messages_alone(context: Context, play: Play) -> None:
    listening = await listen(context)
    await context.database.execute("UPDATE triggers SET paused = true")
    await listening.send(created("s3://b/k"))

    assert not await triggers.step(context)

    assert (await listening.jobs(), await listening.left()) == ([], 1)


@pytest.mark.both_emulators("ReceiveMessage")
async def test_a_queue_that_can_not_be_read_is_told_and_holds_up_no_other(context: Context, play: Play) -> None:
    gone, good = await listen(context), await listen(context)
    await context.aws.sqs.delete_queue(QueueUrl=gone.queue.url)
    await good.send(created("s3://b/k"))

    await triggers.step(context)

    assert "can't read the queue" in (await gone.row())["last_error"]
    assert len(await good.jobs()) == 1


@pytest.mark.both_emulators("ChangeMessageVisibility")
async def test_a_message_that_is_over_a_quota_stays_in_the_queue_until_there_is_room(
    context: Context, play: Play
) -> None:
    quotas = "INSERT INTO shares (name, quotas) VALUES ('default', $1) ON CONFLICT (name) DO UPDATE SET quotas = $1"
    await context.database.execute(quotas, {"jobs_max": 0})
    job = {"name": "told", "input": {"type": "range", "count": 3}, "stages": [{"processor": "noop"}]}
    listening = await listen(context, job)
    await listening.send({"any": "thing"})

    for _ in range(5):
        await triggers.step(context)

    assert await listening.jobs() == []
    assert (
        "messages stay in the queue: the share 'default' has the quota jobs_max = 0"
        in (await listening.row())["last_error"]
    )
    await context.database.execute(quotas, {"jobs_max": 1, "tasks_max": 2})
    await triggers.step(context)
    assert await listening.left() == 1
    assert (
        "stays in the queue: the share 'default' has the quota tasks_max = 2" in (await listening.row())["last_error"]
    )
