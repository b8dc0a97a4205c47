"""What only comes to light after submission, in manifests, messages and listings, is held to what jobs may read."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from services.scheduler.loop import Context
from services.scheduler.loops import chain, clock, plan
from tests.integration.engine.play import Play, finished
from tests.integration.scheduler.conftest import Bucket, finish_job
from tests.integration.scheduler.test_triggers import created, listen
from tests.integration.scheduler.test_triggers import step as receive

CLOSED = "s3://hr-private/salaries.csv"


@pytest.fixture
def context(context: Context) -> Context:
    places = f"s3://{context.settings.bucket}/open/"
    update = {"read_from": places, "write_to": "", "queues": "arn:aws:sqs:*:*:in-*"}
    return replace(context, settings=context.settings.model_copy(update=update))


async def test_rows_of_a_manifest_that_jobs_may_not_read_fail_the_job(
    context: Context, play: Play, bucket: Bucket
) -> None:
    for row in (CLOSED, f"s3://{bucket.name}/packages/x.zip", f"s3://{bucket.name}/opened/x"):
        manifest = await bucket.put("open/rows.jsonl", orjson.dumps({"uri": row}) + b"\n")
        job_id = await play.submit(input={"type": "manifest", "uri": manifest})

        job = await finish_job(context, play, job_id, plan.step)

        assert (job["state"], job["error"]["type"]) == ("failed", "split_failed")
        assert f"jobs may not read {row}" in job["error"]["message"]


async def test_an_inventory_that_lies_elsewhere_is_not_read(context: Context, play: Play, bucket: Bucket) -> None:
    inventory = {
        "destinationBucket": "arn:aws:s3:::hr-private",
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key",
        "files": [{"key": "salaries.csv", "size": 10}],
    }
    uri = await bucket.put("open/manifest.json", orjson.dumps(inventory))
    job_id = await play.submit(input={"type": "manifest", "uri": uri})

    job = await finish_job(context, play, job_id, plan.step)

    assert job["state"] == "failed" and f"jobs may not read {CLOSED}" in job["error"]["message"]


@pytest.mark.parametrize(
    "item", [{"type": "object", "uri": CLOSED}, {"type": "objects", "objects": [{"uri": CLOSED}]},
             {"type": "bytes", "uri": CLOSED, "start": 0, "end": 1}, {"type": "outputs", "uri": "s3://{}/open/listing"},
             {"type": "split", "input": {"type": "lines", "uri": CLOSED}, "slots": 1}],
)  # fmt: skip
async def test_items_that_user_code_forged_fail_the_job(
    context: Context, play: Play, bucket: Bucket, item: dict[str, Any]
) -> None:
    job_id = await play.submit(stages=[{"processor": "noop", "fan_out": True}, {"processor": "noop"}])
    await play.plan(job_id, 1)
    worker = await play.register()
    [task] = await play.run(worker, job_id)
    listing = orjson.dumps(item) + b"\n"
    output = {"uri": await bucket.put("open/listing", listing), "bytes": len(listing), "items": 1}
    await play.complete(worker, finished(task, output=output), done=[task])

    job = await finish_job(context, play, job_id, chain.step)

    assert (job["state"], job["error"]["type"]) == ("failed", "split_failed")


async def test_a_message_does_not_name_what_jobs_may_not_read(context: Context, play: Play, bucket: Bucket) -> None:
    listening = await listen(context)
    await listening.send(created(CLOSED))
    await receive(context)
    assert await listening.jobs() == []
    assert "input.uri" in (await listening.row())["last_error"] and CLOSED in (await listening.row())["last_error"]


async def test_a_schedule_of_before_is_held_to_it_too(context: Context, play: Play) -> None:
    await context.database.execute(
        "INSERT INTO schedules (schedule_id, name, cron, time_zone, misfire, job, next_run_at) "
        "VALUES (gen_random_uuid(), 'old', '* * * * *', 'UTC', 'run_once', $1, now())",
        {"input": {"type": "lines", "uri": CLOSED}, "stages": [{"processor": "noop"}]},
    )

    await clock.step(context)

    assert CLOSED in await context.database.fetchval("SELECT error FROM schedules")
    assert await context.database.fetchval("SELECT count(*) FROM jobs") == 0


async def test_a_message_does_not_name_a_pools_queue(context: Context, play: Play) -> None:
    job = {"input": {"type": "range", "count": 1}, "stages": [{"processor": "noop"}], "output_queue": "{message.to}"}
    listening = await listen(context, job)
    pooled = listening.queue.url.rpartition("/")[0] + "/in-pool"
    await context.database.execute("UPDATE pools SET dead_letter_url = $1", f"{pooled}/?x")
    for url, why in ((pooled, "belongs to the pool"), (pooled.replace("in-pool", "other"), "PIECEWORK_QUEUES")):
        await listening.send({"to": url})
        await receive(context)
        assert why in (await listening.row())["last_error"]
    assert await listening.jobs() == []
