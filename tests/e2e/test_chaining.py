"""One job through every way in which stages chain, and another that its end starts: a real scheduler and worker."""

import csv
import io
import json
from typing import Any

from services.engine.processors import register_processor
from services.engine.spec import JobSpec, ProcessorSpec
from services.engine.submission import submit_job
from services.platform.aws import Aws
from services.platform.database import Database, new_id
from services.platform.settings import Settings
from tests.grid import ProcessGrid
from tests.processors.chains import note_of
from tests.until import until

PROCESSORS = {
    "spread": ProcessorSpec(callable="chains:spread"),
    "files": ProcessorSpec(callable="chains:write_files", output="files", output_directory=True),
    "twice": ProcessorSpec(records="chains:twice"),
    "notes": ProcessorSpec(callable="chains:write_notes", output="notes.csv", output_format="csv"),
    "packed": ProcessorSpec(callable="chains:write_packed", output="notes.jsonl.gz"),
    "shout": ProcessorSpec(records="chains:shout", output_format="csv"),
    "sum": ProcessorSpec(callable="chains:total", output="sum.json", outputs={"seen": "seen.csv"}),
}
TASKS, WIDTH = 3, 5
NUMBERS = range(TASKS * WIDTH)


async def test_a_job_fans_out_twice_waits_splits_again_and_reduces_in_levels(
    settings: Settings, database: Database, aws: Aws, tmp_path: Any
) -> None:
    grid = ProcessGrid(settings, database, aws, tmp_path)
    await grid.prepare()
    told = (await aws.sqs.create_queue(QueueName=f"{settings.bucket}-told"))["QueueUrl"]
    job = {
        "input": {"type": "range", "count": TASKS},
        "stages": [
            {"processor": "spread", "params": {"width": WIDTH}, "fan_out": True},
            {"processor": "files", "fan_out": True},
            {"processor": "twice"},
            {"processor": "sum", "resplit": {"type": "lines", "format": "jsonl", "part_bytes": 50}},
            {"processor": "sum-of-one", "barrier": True},
        ],
        "merge": {"type": "reduce", "processor": "sum", "fan_in": 3, "filename": "total.json"},
        "output_queue": told,
    }
    follower = {
        "name": "follower",
        "input": {"type": "lines", "uri": "{message.data.files.0.uri}", "format": "jsonl"},
        "stages": [{"processor": "twice"}],
    }
    async with database.acquire() as connection, connection.transaction():
        for name, spec in PROCESSORS.items():
            await register_processor(connection, name, spec)
        await register_processor(connection, "sum-of-one", ProcessorSpec(builtin="copy"))
        await connection.execute(
            "INSERT INTO triggers (trigger_id, name, queue_url, match, job) VALUES ($1, 'follow', $2, $3, $4)",
            new_id(),
            told,
            {"type": "job.succeeded"},
            follower,
        )
        await connection.execute("UPDATE triggers SET paused = true")
        job_id = await submit_job(connection, JobSpec.model_validate(job), settings=settings)
    grid.start_scheduler()
    grid.start_worker()
    try:
        ended = await grid.ended(job_id)
        messages: list[dict[str, Any]] = []

        async def all_told() -> bool:
            answer = await aws.sqs.receive_message(QueueUrl=told, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            for message in answer.get("Messages", []):
                messages.append(json.loads(message["Body"]))
            return bool(messages) and messages[-1]["type"].startswith("job.")

        await until(all_told)
        await aws.sqs.send_message(QueueUrl=told, MessageBody=json.dumps(messages[-1]))
        await database.execute("UPDATE triggers SET paused = false")
        following = await until(lambda: database.fetchval("SELECT job_id FROM jobs WHERE name = 'follower'"))
        assert (await grid.ended(following))["state"] == "succeeded"
    finally:
        grid.stop()

    assert (ended["state"], ended["error"]) == ("succeeded", None)
    files = await grid.result_files(job_id)
    assert json.loads(files["total.json"]) == {"sum": 2 * sum(n + n * n for n in NUMBERS), "width": 3}
    assert files["seen.csv"].startswith(b"seen\n")
    rows = await database.fetch(
        "SELECT s.stage, s.kind, count(t.index) AS tasks, s.task_count FROM stages AS s JOIN tasks AS t "
        "USING (job_id, stage) WHERE job_id = $1 GROUP BY s.stage, s.kind, s.task_count ORDER BY s.stage",
        job_id,
    )
    tasks = [row["tasks"] for row in rows]
    assert tasks[:3] == [TASKS, TASKS * WIDTH, 2 * TASKS * WIDTH]
    assert tasks[3] == tasks[4] > 3
    assert tasks[5] > 2  # levels
    assert all(row["tasks"] == row["task_count"] for row in rows)
    told_of = [(m["data"]["stage"], m["data"]["index"]) for m in messages if m["type"] == "task.succeeded"]
    assert len(told_of) == len(set(told_of)) == sum(tasks)


async def test_outputs_that_only_a_reader_of_every_byte_can_split_are_split_again(
    settings: Settings, database: Database, aws: Aws, tmp_path: Any
) -> None:
    grid = ProcessGrid(settings, database, aws, tmp_path)
    await grid.prepare()

    def job(writer: str, **options: Any) -> JobSpec:
        shout = {"processor": "shout", "resplit": {"type": "lines", "part_bytes": 1500, **options}}
        stages = [{"processor": writer, "params": {"count": 200}}, shout]
        merge = {"type": "concat", "filename": "all.csv"}
        return JobSpec.model_validate({"input": {"type": "range", "count": 3}, "stages": stages, "merge": merge})

    async with database.acquire() as connection, connection.transaction():
        for name, spec in PROCESSORS.items():
            await register_processor(connection, name, spec)
        told = [
            await submit_job(connection, job("notes", format="csv", multiline=True), settings=settings),
            await submit_job(connection, job("packed", format="jsonl", compression="gzip"), settings=settings),
        ]
        torn = await submit_job(connection, job("notes", format="csv"), settings=settings)
        binary = await submit_job(connection, job("packed", format="jsonl"), settings=settings)
    grid.start_scheduler()
    grid.start_worker()
    try:
        ends = [await grid.ended(job_id) for job_id in (*told, torn, binary)]
    finally:
        grid.stop()

    expected = [["id", "note"], *([str(number), note_of(number).upper()] for number in range(600))]
    for job_id, end in zip(told, ends, strict=False):
        assert (end["state"], end["error"]) == ("succeeded", None)
        stages = await database.fetch(
            "SELECT s.kind, s.task_count, c.records_in, c.records_out FROM stages AS s CROSS JOIN LATERAL ("
            "SELECT sum(records_in) AS records_in, sum(records_out) AS records_out FROM stage_counters AS sc "
            "WHERE sc.job_id = s.job_id AND sc.stage = s.stage) AS c WHERE job_id = $1 ORDER BY stage",
            job_id,
        )
        assert [stage["kind"] for stage in stages] == ["map", "split", "map"]
        assert [stage["task_count"] for stage in stages[:2]] == [3, 1] and stages[2]["task_count"] > 10
        assert stages[2]["records_in"] == stages[2]["records_out"] == 600
        merged = (await grid.result_files(job_id))["all.csv"].decode()
        assert list(csv.reader(io.StringIO(merged, newline=""))) == expected
    assert [end["state"] for end in ends[2:]] == ["failed", "failed"]
    assert "set `multiline: true` in the job's input (or the stage's resplit)" in ends[2]["error"]["message"]
    assert "begins like gzip, not like lines: set compression: gzip" in ends[3]["error"]["message"]
