"""Messages become jobs: once for each event, whatever is told twice, comes late or makes no sense."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.platform.database import new_id
from services.scheduler.loop import Context
from services.scheduler.loops import triggers
from tests.integration.engine.play import Play
from tests.integration.scheduler.conftest import Bucket, Queue, drive

JOB = {"name": "incoming", "input": {"type": "lines", "uri": "{uri}"}, "stages": [{"processor": "noop"}]}


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "WAIT_SECONDS", 0)


async def step(context: Context) -> bool:
    """Receive once from each trigger's queue; True if there are triggers."""
    rows, gates = await context.database.fetch(triggers.TRIGGERS), triggers.Gates()
    await asyncio.gather(*(triggers.receive(context, row, gates, triggers.WAIT_SECONDS) for row in rows))
    return bool(rows)


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
            assert await step(context)

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
            await asyncio.gather(step(context), step(other))

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
            await step(context)
    async with asyncio.timeout(10):
        while await listening.left():
            await step(context)

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

    await step(context)

    assert await listening.jobs() == []
    assert await listening.left() == 1
    trigger = await listening.row()
    assert error in trigger["last_error"]
    assert (trigger["last_error_at"] is not None, trigger["last_message_at"]) == (True, None)


async def test_what_failed_last_stays_said_when_other_messages_become_jobs(context: Context, play: Play) -> None:
    listening = await listen(context)
    await listening.send({"no": "uri"})
    await step(context)
    failed = await listening.row()
    await listening.send(created("s3://b/k"))
    await step(context)

    trigger = await listening.row()
    assert trigger["last_job_id"] == (await listening.jobs())[0]["job_id"]
    assert (trigger["last_error"], trigger["last_error_at"]) == (failed["last_error"], failed["last_error_at"])
    assert "has no 'uri'" in trigger["last_error"]
    assert trigger["last_message_at"] > trigger["last_error_at"]

    await listening.send({"Records": ["no event"]})
    await step(context)

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
        await step(context)

    assert (times, most) == (5, 2)


async def test_a_paused_trigger_leaves_its_messages_alone(context: Context, play: Play) -> None:
    listening = await listen(context)
    await context.database.execute("UPDATE triggers SET paused = true")
    await listening.send(created("s3://b/k"))

    assert not await step(context)

    assert (await listening.jobs(), await listening.left()) == ([], 1)


@pytest.mark.both_emulators("ReceiveMessage")
async def test_a_queue_that_can_not_be_read_is_told_and_holds_up_no_other(context: Context, play: Play) -> None:
    gone, good = await listen(context), await listen(context)
    await context.aws.sqs.delete_queue(QueueUrl=gone.queue.url)
    await good.send(created("s3://b/k"))

    await step(context)

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
        await step(context)

    assert await listening.jobs() == []
    assert (
        "messages stay in the queue: the share 'default' has the quota jobs_max = 0"
        in (await listening.row())["last_error"]
    )
    await context.database.execute(quotas, {"jobs_max": 1, "tasks_max": 2})
    await step(context)
    assert await listening.left() == 1
    assert (
        "stays in the queue: the share 'default' has the quota tasks_max = 2" in (await listening.row())["last_error"]
    )


# A task for each trigger.


@pytest.fixture
async def listeners(context: Context) -> AsyncIterator[triggers.Listeners]:
    listeners = triggers.Listeners()
    yield listeners
    await listeners.stop(context)


@pytest.fixture
async def listeners2(other: Context) -> AsyncIterator[triggers.Listeners]:
    """Of a second scheduler."""
    listeners = triggers.Listeners()
    yield listeners
    await listeners.stop(other)


def hold_receives(context: Context, monkeypatch: pytest.MonkeyPatch, held: set[str]) -> dict[str, int]:
    """Receives of these queues never end, as of an idle queue or one whose endpoint is silent; gives all that began."""
    receive = context.aws.sqs.receive_message
    began: dict[str, int] = {}

    async def hold(**request: Any) -> Any:
        url = request["QueueUrl"]
        began[url] = began.get(url, 0) + 1
        if url in held:
            await asyncio.Event().wait()
        return await receive(**request | {"WaitTimeSeconds": 0})

    monkeypatch.setattr(context.aws.sqs, "receive_message", hold)
    return began


async def test_a_queue_that_does_not_answer_slows_no_other(
    context: Context, play: Play, listeners: triggers.Listeners, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = [await listen(context) for _ in range(40)]
    gone, busy = await listen(context), await listen(context)
    await context.aws.sqs.delete_queue(QueueUrl=gone.queue.url)
    began = hold_receives(context, monkeypatch, {each.queue.url for each in silent})
    for n in range(60):
        await busy.send(created(f"s3://b/{n}"))

    async def all_submitted() -> bool:
        return len(await busy.jobs()) == 60 and not await busy.left()

    await drive(context, listeners.step, until=all_submitted, seconds=60)

    assert {began[each.queue.url] for each in silent} == {1}
    row = await gone.row()
    assert row["unreadable_since"] is not None and "can't read the queue" in row["last_error"]
    assert began[gone.queue.url] <= 4, "it is tried again with growing pauses"
    assert (await busy.row())["lag_seconds"] is not None


async def test_a_long_queue_has_several_receivers_and_an_idle_one_a_single_wait(
    context: Context, play: Play, listeners: triggers.Listeners, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = await listen(context)
    now = most = 0

    async def receive(*_: Any) -> int:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        await asyncio.sleep(0)
        now -= 1
        return 10

    with monkeypatch.context() as full:
        full.setattr(triggers, "receive", receive)

        async def several() -> bool:
            return most == triggers.RECEIVERS_MAX

        await drive(context, listeners.step, until=several)
    await listeners.stop(context)
    waits: list[int] = []

    async def empty(*arguments: Any) -> int:
        waits.append(arguments[-1])
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(triggers, "WAIT_SECONDS", 20)
    monkeypatch.setattr(triggers, "receive", empty)

    async def waiting() -> bool:
        return bool(waits)

    await drive(context, listeners.step, until=waiting)
    await listeners.step(context)
    assert waits == [20]
    assert (await listening.row())["paused"] is False


async def test_triggers_come_change_pause_and_go(
    context: Context, play: Play, listeners: triggers.Listeners, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await listen(context)
    began = hold_receives(context, monkeypatch, {first.queue.url})

    async def heard(listening: Listening, times: int) -> None:
        async def so_often() -> bool:
            return began.get(listening.queue.url, 0) == times

        await drive(context, listeners.step, until=so_often)

    await heard(first, 1)
    await context.database.execute("UPDATE triggers SET suffix = '.csv'")
    await heard(first, 2)
    await context.database.execute("UPDATE triggers SET paused = true")
    await listeners.step(context)

    async def stopped() -> bool:
        return not listeners._slots.keys

    await drive(context, listeners.step, until=stopped)
    await context.database.execute("UPDATE triggers SET paused = false")
    await heard(first, 3)
    await context.database.execute("DELETE FROM triggers")
    await drive(context, listeners.step, until=stopped)


async def test_schedulers_share_the_triggers_and_take_over_those_of_one_that_hangs(
    context: Context,
    other: Context,
    play: Play,
    listeners: triggers.Listeners,
    listeners2: triggers.Listeners,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triggers, "HEARTBEAT_SECONDS", 0.0)
    all_of_them = [await listen(context) for _ in range(40)]
    hold_receives(context, monkeypatch, {each.queue.url for each in all_of_them})

    async def shared() -> bool:
        await listeners2.step(other)
        mine, others = set(listeners._slots.keys), set(listeners2._slots.keys)
        return bool(mine and others) and len(mine | others) == 40 and not mine & others

    await drive(context, listeners.step, until=shared)
    assert min(len(listeners._slots), len(listeners2._slots)) >= 5

    await context.database.execute(
        "UPDATE schedulers SET heartbeat_at = now() - interval '1 minute' WHERE scheduler_id = $1",
        listeners2._scheduler_id,
    )
    await listeners.step(context)
    assert len(listeners._slots) == 40


async def test_a_trigger_whose_row_is_held_delays_no_other(
    context: Context, play: Play, listeners: triggers.Listeners
) -> None:
    held, free = await listen(context), await listen(context)
    await held.send(created("s3://b/held"))
    async with context.database.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM triggers WHERE trigger_id = $1 FOR UPDATE", held.trigger_id)
        for n in range(12):
            await free.send(created(f"s3://b/{n}"))

        async def all_submitted() -> bool:
            return len(await free.jobs()) == 12

        await drive(context, listeners.step, until=all_submitted)

    async def also_held() -> bool:
        return len(await free.jobs()) == 13

    await drive(context, listeners.step, until=also_held)
