"""Jobs outlast outages of S3 and SQS by themselves: nothing that these do counts as a task's failure."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.local.emulator import Emulator
from tests.grid import Gate, ProcessGrid
from tests.sick_s3 import Sickness, SickS3
from tests.storm.journal import Journal
from tests.until import until

WAYS = ("-m", "services.worker"), ("-m", "services.scheduler")


@pytest.fixture
async def sick(emulator: Emulator, tmp_path: Path) -> AsyncIterator[SickS3]:
    journal = Journal(tmp_path / "storm.jsonl")
    proxy = SickS3(emulator.url, journal)
    await proxy.start()
    yield proxy
    proxy.sickness = "none"
    await proxy.stop()
    journal.close()


def start(grid: ProcessGrid, sick: SickS3) -> None:
    """A worker and a scheduler that reach AWS through the proxy."""
    for way in WAYS:
        grid.start(*way, aws_endpoint_url=sick.url, s3_read_seconds=0.3)


@pytest.mark.parametrize("sickness", ["refusing", "slow down"])
async def test_an_outage_of_s3_that_outlasts_attempts_counts_as_no_failure(
    grid: ProcessGrid, sick: SickS3, gate: Gate, sickness: Sickness
) -> None:
    start(grid, sick)
    job_id = await grid.submit(gate=gate.path)
    await gate.task_waits()

    sick.sickness = sickness
    gate.open()

    async def excused() -> bool:
        return bool(
            await grid.database.fetchval(
                "SELECT count(*) FROM attempts WHERE job_id = $1 AND outcome = 'released' "
                "AND error ->> 'type' IN ('input_unavailable', 'output_unavailable')",
                job_id,
            )
        )

    await until(excused)
    waiting = await grid.database.fetchrow(
        "SELECT failures, error FROM tasks WHERE job_id = $1 AND ready_at > now() LIMIT 1", job_id
    )
    if waiting is not None:
        assert (waiting["failures"], "can't be" in waiting["error"]["message"]) == (0, True)
    sick.sickness = "none"

    await grid.assert_right(job_id)
    failed = await grid.database.fetchval(
        "SELECT count(*) FROM attempts WHERE job_id = $1 AND outcome IN ('failed', 'timeout')", job_id
    )
    assert failed == 0


async def test_a_timeout_shorter_than_the_patience_with_s3_counts_as_no_failure(
    grid: ProcessGrid, sick: SickS3, gate: Gate
) -> None:
    for way in WAYS:
        grid.start(*way, aws_endpoint_url=sick.url, s3_read_seconds=2.0)
    job_id = await grid.submit(gate=gate.path)
    await gate.task_waits()
    await grid.database.execute("UPDATE stages SET timeout_seconds = 3 WHERE job_id = $1 AND stage = 2", job_id)
    await grid.database.execute("UPDATE stages SET max_attempts = 1 WHERE job_id = $1", job_id)
    count = "SELECT count(*) FROM attempts WHERE job_id = $1 AND stage = 2 AND outcome = ANY($2)"

    gate.open()
    await until(
        lambda: grid.database.fetchval("SELECT EXISTS (SELECT FROM tasks WHERE job_id = $1 AND stage = 2)", job_id)
    )
    sick.sickness = "deaf"
    await until(lambda: grid.database.fetchval(count, job_id, ["released"]))
    sick.sickness = "none"

    assert (await grid.ended(job_id))["state"] == "succeeded"
    assert await grid.database.fetchval(count, job_id, ["timeout", "failed"]) == 0


@pytest.mark.parametrize("service", ["S3", "SQS"])
async def test_a_job_submitted_in_an_outage_runs_after_it(grid: ProcessGrid, sick: SickS3, service: str) -> None:
    """Planning, sending, receiving and merging wait."""
    sick.sickness, sick.service = "refusing", "S3" if service == "S3" else "SQS"
    start(grid, sick)
    job_id = await grid.submit()

    await until(lambda: sick.struck >= 8)
    assert (await grid.job(job_id))["state"] == "running"
    sick.sickness = "none"

    await grid.assert_right(job_id)
