"""Between any two stages all outputs are lost: deleted, cut off, or overwritten in place. The job ends right."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from services.engine.pools import register_pool
from services.engine.processors import register_processor
from services.engine.spec import JobSpec, ProcessorSpec
from services.engine.submission import submit_job
from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings
from tests.e2e.test_chaining import NUMBERS, PROCESSORS, TASKS, WIDTH
from tests.grid import ProcessGrid
from tests.invariants import assert_invariants
from tests.until import until

STAGES: list[dict[str, Any]] = [
    {"processor": "spread", "params": {"width": WIDTH}, "fan_out": True},
    {"processor": "files", "fan_out": True},
    {"processor": "twice"},
    {"processor": "sum", "resplit": {"type": "lines", "format": "jsonl", "part_bytes": 50}},
    {"processor": "sum-of-one", "barrier": True},
]


@dataclass
class StagedGrid:
    """A grid with a pool for each stage, which has no worker until the test says so."""

    grid: ProcessGrid
    settings: Settings
    database: Database
    aws: Aws

    async def prepare(self, stages: int) -> None:
        async with self.database.acquire() as connection, connection.transaction():
            for name, spec in (PROCESSORS | {"sum-of-one": ProcessorSpec(builtin="copy")}).items():
                await register_processor(connection, name, spec)
        for stage in range(stages):
            name = f"stage-{stage}"
            queue = (await self.aws.sqs.create_queue(QueueName=f"{self.settings.bucket}-{name}"))["QueueUrl"]
            async with self.database.acquire() as connection:
                await register_pool(connection, name, queue_url=queue, dead_letter_url=queue, group_name=None, slots=2)

    async def submit(self, stages: list[dict[str, Any]], merge: dict[str, Any]) -> UUID:
        placed = [stage | {"pool": "default"} for stage in stages]
        job = {"input": {"type": "range", "count": TASKS}, "stages": placed, "merge": merge}
        async with self.database.acquire() as connection, connection.transaction():
            job_id = await submit_job(connection, JobSpec.model_validate(job), settings=self.settings)
            # A reduce would go to the pool of the stage before it.
            await connection.execute("UPDATE stages SET pool = 'stage-' || stage WHERE job_id = $1", job_id)
            return job_id

    def start_worker(self, stage: int) -> None:
        self.grid.start("-m", "services.worker", pool=f"stage-{stage}", slots=2)

    async def next_has_tasks(self, job_id: UUID, stage: int) -> None:
        """Wait until the stage is over, and tasks of the next one are there."""
        over = (
            "SELECT s.state = 'succeeded' AND n.state = 'running' AND n.task_count > 0 FROM stages AS s "
            "JOIN stages AS n ON n.job_id = s.job_id AND n.stage = s.stage + 1 WHERE s.job_id = $1 AND s.stage = $2"
        )
        await until(lambda: self.database.fetchval(over, job_id, stage))

    async def damage(self, job_id: UUID, *prefixes: str) -> int:
        """Delete, cut off and overwrite all interim objects under these prefixes of a job's; returns how many."""
        s3, bucket, count = self.aws.s3, self.settings.bucket, 0
        for prefix in prefixes:
            listing = await s3.list_objects_v2(Bucket=bucket, Prefix=self.settings.layout.interim(job_id).key + prefix)
            for entry in listing.get("Contents", []):
                key = {"Bucket": bucket, "Key": entry["Key"]}
                body = await (await s3.get_object(**key))["Body"].read()
                await s3.delete_object(**key)
                if count % 3 and body:
                    wrong = body[:-1] if count % 3 == 1 else bytes([body[0] ^ 1]) + body[1:]
                    await s3.put_object(**key, Body=wrong)
                count += 1
        return count


@pytest.fixture
async def staged(settings: Settings, database: Database, aws: Aws, tmp_path: Any) -> AsyncIterator[StagedGrid]:
    grid = ProcessGrid(settings, database, aws, tmp_path)
    await grid.prepare()
    yield StagedGrid(grid, settings, database, aws)
    grid.stop()


async def test_whatever_is_lost_between_two_stages_is_made_again(staged: StagedGrid) -> None:
    await staged.prepare(len(STAGES) + 1)
    merge = {"type": "reduce", "processor": "sum", "fan_in": 3, "filename": "total.json"}
    job_id = await staged.submit(STAGES, merge)
    staged.grid.start_scheduler()
    for stage in range(len(STAGES)):
        staged.start_worker(stage)
        await staged.next_has_tasks(job_id, stage)
        assert await staged.damage(job_id, f"{stage}/", f"{stage + 1}/inputs/")
    staged.start_worker(len(STAGES))

    ended = await staged.grid.ended(job_id)

    assert (ended["state"], ended["error"]) == ("succeeded", None)
    files = await staged.grid.result_files(job_id)
    assert json.loads(files["total.json"])["sum"] == 2 * sum(n + n * n for n in NUMBERS)
    await assert_invariants(staged.database, job_id)
    lost = await staged.database.fetch(
        "SELECT stage, index, attempt, error ->> 'message' AS why FROM attempts WHERE job_id = $1 "
        "AND outcome = 'succeeded' AND error ->> 'type' = 'output_lost' ORDER BY stage, index",
        job_id,
    )
    assert {row["stage"] for row in lost} == {1, 2, 3, 4}  # of stage 0 only listings were left, and read before
    for row in lost:
        assert re.search(rf" could not read s3://.*/{row['stage']}/{row['index']}-{row['attempt']}/", row["why"])
    waited = await staged.database.fetchval(
        "SELECT count(*) FROM attempts WHERE job_id = $1 AND outcome = 'released' AND error ->> 'type' = 'input_lost'",
        job_id,
    )
    assert waited > len(STAGES)
    assert await staged.database.fetchval("SELECT sum(failures) FROM tasks WHERE job_id = $1", job_id) == 0
