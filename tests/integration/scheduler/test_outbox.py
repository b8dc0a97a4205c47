"""Users' queues: told of each success and of the job's end, at least once, in the order in which they happened."""

import asyncio
import json
import re
from typing import Any
from uuid import uuid4

import pytest

from services.scheduler import slots
from services.scheduler.loop import Context
from services.scheduler.loops import outbox
from services.scheduler.merges.merge import Merger
from tests.integration.engine.play import Play, finished
from tests.integration.scheduler.conftest import Queue, drive, finish_job


@pytest.fixture
async def done(context: Context) -> Queue:
    """A user's queue."""
    answer = await context.aws.sqs.create_queue(QueueName=f"done-{uuid4().hex}")
    return Queue(context.aws.sqs, answer["QueueUrl"])


async def tell_all(context: Context) -> None:
    async def told() -> bool:
        return not await context.database.fetchval("SELECT EXISTS (SELECT FROM queue_messages)")

    await drive(context, outbox.step, until=told)


async def heard(queue: Queue) -> list[dict[str, Any]]:
    return [json.loads(body) for body in await queue.receive()]


@pytest.mark.both_emulators("SendMessageBatch")
async def test_a_queue_is_told_of_successes_and_of_the_end_in_order(context: Context, play: Play, done: Queue) -> None:
    job_id = await play.submit(stages=2, output_queue=done.url)
    await play.plan(job_id, 3)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    for task in (tasks[2], tasks[0], tasks[1]):
        await play.complete(worker_id, finished(task, output={"uri": f"s3://b/{task.index}"}), done=[task])
    await play.succeed(worker_id, await play.run(worker_id, job_id, 1))
    await finish_job(context, play, job_id, Merger().step)
    await tell_all(context)

    messages = await heard(done)

    assert [message["type"] for message in messages] == ["task.succeeded"] * 6 + ["job.succeeded"]
    told = [(message["data"]["stage"], message["data"]["index"]) for message in messages[:6]]
    assert told == [(0, 2), (0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert messages[0]["data"] == {
        "job_id": str(job_id),
        "stage": 0,
        "index": 2,
        "attempt": 1,
        "output": {"uri": "s3://b/2"},
    }
    assert messages[-1]["data"]["job_id"] == str(job_id)
    assert messages[-1]["data"]["results"]["uri"].endswith("/manifest.json")


async def test_slow_queues_leave_connections_to_others(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "QUEUES_AT_ONCE", 2)
    for number in range(5):
        url = (await context.aws.sqs.create_queue(QueueName=f"slow-{number}-{uuid4().hex}"))["QueueUrl"]
        job_id = await play.submit(output_queue=url)
        await play.plan(job_id, 1)
        await play.run_all(job_id)
    send, sending, go_on = context.aws.sqs.send_message_batch, 0, asyncio.Event()

    async def be_slow(**request: Any) -> Any:
        nonlocal sending
        sending += 1
        await go_on.wait()
        return await send(**request)

    with monkeypatch.context() as slow:
        slow.setattr(context.aws.sqs, "send_message_batch", be_slow)
        step = asyncio.create_task(outbox.step(context))
        try:
            async with asyncio.timeout(10):
                while sending < 2:
                    await context.database.fetchval("SELECT 1")
            for _ in range(20):  # time for others to come, if they did
                await context.database.fetchval("SELECT 1")
            at_once = sending
        finally:
            go_on.set()
            await step
        await tell_all(context)
    assert (at_once, sending) == (2, 5)


@pytest.mark.both_emulators("SendMessageBatch")
async def test_text_that_sqs_does_not_take_is_escaped(
    context: Context, play: Play, done: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one such value would hold up all that is to be told after it."""
    job_id = await play.submit(output_queue=done.url)
    await play.plan(job_id, 1)
    worker_id = await play.register()
    [task] = await play.run(worker_id, job_id)
    text = "\ufffe \uffff \N{GRINNING FACE} \x01"
    await play.complete(worker_id, finished(task, output={"value": text}), done=[task])
    bodies: list[str] = []
    send = context.aws.sqs.send_message_batch

    async def listen(**request: Any) -> Any:
        bodies.extend(entry["MessageBody"] for entry in request["Entries"])
        return await send(**request)

    with monkeypatch.context() as listening:
        listening.setattr(context.aws.sqs, "send_message_batch", listen)
        await tell_all(context)

    # docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
    assert not re.search("[^\\t\\n\\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", bodies[0])
    assert json.loads(bodies[0])["data"]["output"]["value"] == text


async def test_an_attempt_that_does_not_win_is_not_told_of(context: Context, play: Play, done: Queue) -> None:
    job_id = await play.submit(output_queue=done.url)
    await play.plan(job_id, 1)
    first, task, second, backup = await play.race(job_id)
    await play.complete(second, finished(backup), done=[backup])
    await play.complete(first, finished(task), done=[task])
    await tell_all(context)

    assert [message["data"]["attempt"] for message in await heard(done)] == [backup.attempt]


async def test_what_an_older_transaction_may_still_precede_waits(context: Context, play: Play, done: Queue) -> None:
    job_id = await play.submit(output_queue=done.url)
    await play.plan(job_id, 2)
    worker_id = await play.register()
    early, late = await play.run(worker_id, job_id)
    async with context.database.acquire() as connection, connection.transaction():
        await connection.fetchval("SELECT pg_current_xact_id()")
        await play.complete(worker_id, finished(late), done=[])
        await outbox.step(context)
        assert await heard(done) == []
        await connection.execute(
            "INSERT INTO queue_messages (queue_url, job_id, body) VALUES ($1, $2, $3)", done.url, job_id, {"n": "early"}
        )
    await tell_all(context)

    told = await heard(done)
    assert [message.get("n") for message in told] == ["early", None]
    assert early.index == 0


async def test_a_scheduler_that_dies_between_sending_and_forgetting_tells_again(
    context: Context, play: Play, done: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tell_twice(context, play, done, monkeypatch)

    assert [message["data"]["index"] for message in await heard(done)] == [0, 1, 0, 1]


@pytest.mark.both_emulators("SendMessageBatch")
async def test_a_fifo_queue_drops_what_it_is_told_again(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await context.aws.sqs.create_queue(QueueName=f"{uuid4().hex}.fifo", Attributes={"FifoQueue": "true"})
    fifo = Queue(context.aws.sqs, answer["QueueUrl"])
    await tell_twice(context, play, fifo, monkeypatch)

    assert [message["data"]["index"] for message in await heard(fifo)] == [0, 1]


async def tell_twice(context: Context, play: Play, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two tasks: the first scheduler dies after it has sent the messages."""
    job_id = await play.submit(output_queue=queue.url)
    await play.plan(job_id, 2)
    await play.run_all(job_id)
    with monkeypatch.context() as dying:
        dying.setattr(outbox, "_SENT", "SELECT 1 / 0, $1::text, $2::xid8[], $3::bigint[]")
        with pytest.raises(Exception, match="division by zero"):
            await outbox.step(context)
    await tell_all(context)


async def test_two_schedulers_keep_the_order_and_a_queue_that_is_gone_holds_up_no_other(
    context: Context, other: Context, play: Play, done: Queue
) -> None:
    await context.database.execute(
        "INSERT INTO queue_messages (queue_url, job_id, body) "
        "SELECT url, gen_random_uuid(), to_jsonb(n) FROM generate_series(1, 250) AS n, unnest($1::text[]) AS url",
        [done.url, f"{done.url}-gone"],
    )

    async def told() -> bool:
        await asyncio.gather(outbox.step(context), outbox.step(other))
        return not await context.database.fetchval(
            "SELECT EXISTS (SELECT FROM queue_messages WHERE queue_url = $1)", done.url
        )

    await drive(context, until=told)

    assert [json.loads(body) for body in await done.receive()] == list(range(1, 251))
    assert await context.database.fetchval("SELECT count(*) FROM queue_messages") == 250


async def test_queues_that_do_not_answer_hold_up_no_other(
    impatient: None, context: Context, play: Play, done: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "QUEUES_AT_ONCE", 2)
    monkeypatch.setattr(slots, "LONG_SECONDS", 0.1)
    await context.database.execute(
        "INSERT INTO queue_messages (queue_url, job_id, body) "
        "SELECT url, gen_random_uuid(), '1' FROM unnest($1::text[]) AS url",
        [f"{done.url}-{n}-silent" for n in range(5)] + [done.url],
    )
    send = context.aws.sqs.send_message_batch

    async def be_silent(**request: Any) -> Any:
        if request["QueueUrl"].endswith("-silent"):
            await asyncio.Event().wait()
        return await send(**request)

    monkeypatch.setattr(context.aws.sqs, "send_message_batch", be_silent)

    async def told() -> bool:
        return not await context.database.fetchval(
            "SELECT EXISTS (SELECT FROM queue_messages WHERE queue_url = $1)", done.url
        )

    await drive(context, outbox.step, until=told)
    await context.slots["outbox"].stop()
    assert await context.database.fetchval("SELECT count(*) FROM queue_messages") == 5
