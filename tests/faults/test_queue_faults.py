"""A message is only a doorbell: rung twice, or not at all, it costs time, never correctness."""

import json
from uuid import UUID

import asyncpg

from services.contract.message import Message
from tests.grid import ProcessGrid
from tests.until import until

_TELL_OF_EVERY_BUNDLE = """
    CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_notify('every_bundle', row_to_json(NEW)::text); RETURN NEW; END $$;
    CREATE TRIGGER tell AFTER INSERT ON bundles FOR EACH ROW EXECUTE FUNCTION tell();"""


async def assert_run_once(grid: ProcessGrid, job_id: UUID) -> None:
    """No task has run twice, unless its worker was so busy that it lost its lease."""
    outcomes = await grid.database.fetch("SELECT outcome FROM attempts WHERE job_id = $1", job_id)
    tasks = await grid.database.fetchval("SELECT count(*) FROM tasks WHERE job_id = $1", job_id)
    assert [row["outcome"] for row in outcomes if row["outcome"] not in ("lost", "released")] == ["succeeded"] * tasks


async def test_every_message_delivered_twice_runs_every_task_once(grid: ProcessGrid) -> None:
    await grid.database.execute(_TELL_OF_EVERY_BUNDLE)
    doubled: list[Message] = []

    def double(connection: object, pid: int, channel: str, payload: str) -> None:
        row = json.loads(payload)
        doubled.append(Message(UUID(row["bundle_id"]), UUID(row["job_id"]), row["stage"], row["first"], row["count"]))

    listener = await asyncpg.connect(grid.settings.database_url)
    await listener.add_listener("every_bundle", double)
    grid.start_scheduler()
    grid.start_worker()
    grid.start_worker()
    job_id = await grid.submit()

    sent = 0
    while (await grid.job(job_id))["state"] == "running":
        while sent < len(doubled):
            await grid.aws.sqs.send_message(QueueUrl=grid.queue_url, MessageBody=doubled[sent].encode())
            sent += 1

    await listener.close()
    assert sent > 40
    await grid.assert_right(job_id)
    await assert_run_once(grid, job_id)

    async def drained() -> bool:
        answer = await grid.aws.sqs.get_queue_attributes(
            QueueUrl=grid.queue_url,
            AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
        )
        return all(value == "0" for value in answer["Attributes"].values())

    await until(drained)  # duplicates are deleted, not left to come back


async def test_a_queue_purged_in_mid_job_is_filled_again(grid: ProcessGrid) -> None:
    grid.start_scheduler()

    async def all_queued_unclaimed() -> bool:
        return bool(await grid.database.fetchval("SELECT count(*) >= 4 FROM bundles WHERE worker_id IS NULL"))

    job_id = await grid.submit()
    await until(all_queued_unclaimed)
    await grid.aws.sqs.purge_queue(QueueUrl=grid.queue_url)
    grid.start_worker()

    await grid.assert_right(job_id)
    await assert_run_once(grid, job_id)


async def test_a_message_that_is_not_a_message_goes_to_the_dead_letter_queue(grid: ProcessGrid) -> None:
    grid.start_scheduler()
    grid.start_worker()
    for body in ("no JSON", "{}", '{"bundle": 1}'):
        await grid.aws.sqs.send_message(QueueUrl=grid.queue_url, MessageBody=body)

    job_id = await grid.submit()

    await grid.assert_right(job_id)
    dead: list[str] = []

    async def three_dead() -> bool:
        answer = await grid.aws.sqs.receive_message(QueueUrl=grid.dead_letter_url, MaxNumberOfMessages=10)
        dead.extend(message["Body"] for message in answer.get("Messages", []))
        return len(dead) >= 3

    await until(three_dead)
    assert sorted(dead) == sorted(["no JSON", "{}", '{"bundle": 1}'])
