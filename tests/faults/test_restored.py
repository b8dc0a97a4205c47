"""A grid that is restored from a dump of the middle of a job, on another server, beside S3 and SQS as they are now."""

import asyncio
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres, _find_binaries
from services.contract.location import Location
from services.platform.database import Database, connect_database
from tests.grid import Gate, ProcessGrid
from tests.roles import let_in
from tests.until import until

CLIENTS = _find_binaries()

_MADE_SINCE = """
    SELECT output ->> 'uri' AS uri FROM tasks WHERE job_id = $1 AND attempt > 100 AND output ->> 'uri' IS NOT NULL"""


@pytest.fixture
async def elsewhere() -> AsyncIterator[EmbeddedPostgres]:
    """A server that has seen fewer transactions, and none of the grid's roles."""
    with tempfile.TemporaryDirectory(prefix="piecework-test-", ignore_cleanup_errors=True) as directory:
        server = EmbeddedPostgres(Path(directory) / "data")
        await asyncio.to_thread(server.start)
        yield server
        await asyncio.to_thread(server.stop)


async def dump(url: str, path: Path) -> None:
    command = [str(CLIENTS / "pg_dump"), "-Fc", f"--file={path}", f"--dbname={url}"]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)


async def restore(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.engine.restore", *arguments]
    environment = {"PIECEWORK_DATABASE_URL": url, "PATH": str(CLIENTS)}
    return await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, check=False
    )


async def keys(grid: ProcessGrid, prefix: str) -> set[str]:
    pages = grid.aws.s3.get_paginator("list_objects_v2").paginate(Bucket=grid.settings.bucket, Prefix=prefix)
    return {entry["Key"] async for page in pages for entry in page.get("Contents", [])}


async def raise_ids(database: Database) -> None:
    """The server's transaction ids are far beyond those of a young one."""
    async with database.acquire() as connection:
        await connection.execute(
            "DO $$ BEGIN FOR i IN 1..5000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
        )


@pytest.mark.timeout(300)
async def test_a_job_goes_on_in_a_database_restored_elsewhere(
    grid: ProcessGrid, gate: Gate, elsewhere: EmbeddedPostgres, tmp_path: Path
) -> None:
    told = (await grid.aws.sqs.create_queue(QueueName=f"{grid.settings.bucket}-told"))["QueueUrl"]
    await raise_ids(grid.database)
    grid.start_scheduler()
    grid.start_worker()
    job_id = await grid.submit(gate=gate.path)
    await gate.task_waits()
    await grid.database.execute(  # of a transaction of this server, and not sent yet
        "INSERT INTO queue_messages (queue_url, job_id, body, txid) VALUES ($1, $2, '{}', '9000000000')", told, job_id
    )
    await dump(grid.settings.database_url, tmp_path / "dump")
    # What comes after the dump is forgotten, but what it has put into S3 stays.
    gate.open()
    await grid.assert_right(job_id)
    for process in grid.processes:
        process.send_signal(signal.SIGTERM)
    for process in grid.processes:
        await asyncio.to_thread(process.wait, 30)
    before = await grid.result_files(job_id)
    used = await keys(grid, f"jobs/{job_id}/")

    url = await elsewhere.create_database("restored")
    restored = await restore(url, str(tmp_path / "dump"))

    assert restored.returncode == 0, restored.stderr
    again = await connect_database(url)
    owner = await asyncpg.connect(url)
    await let_in(owner, url)
    await owner.close()
    assert await again.fetchval("SELECT max(txid) < pg_current_xact_id() FROM attempts")
    grid.settings = grid.settings.model_copy(update={"database_url": url})
    lost, grid.database = grid.database, again
    grid.start_scheduler()
    grid.start_worker()
    assert (await grid.ended(job_id))["state"] == "succeeded"
    assert await grid.result_files(job_id) == before
    states = "SELECT state, count(*) FROM tasks WHERE job_id = $1 GROUP BY state"
    sums = "SELECT sum(succeeded), sum(ready + queued + running + failed) FROM stage_counters WHERE job_id = $1"
    [(state, tasks)] = await again.fetch(states, job_id)
    assert (state, tuple(await again.fetchrow(sums, job_id))) == ("succeeded", (tasks, 0))
    made = await again.fetch(_MADE_SINCE, job_id)
    assert made and not {Location.parse(row["uri"]).key for row in made} & used

    async def heard() -> bool:
        return bool((await grid.aws.sqs.receive_message(QueueUrl=told)).get("Messages"))

    await until(heard)
    await again.close()
    grid.database = lost


async def test_a_database_in_use_or_not_empty_is_left_alone(own_database_url: str, tmp_path: Path) -> None:
    connection = await asyncpg.connect(own_database_url)
    in_use = await restore(own_database_url)
    await connection.close()
    assert in_use.returncode == 1
    assert "stop all services first" in in_use.stderr

    not_empty = await restore(own_database_url, str(tmp_path / "dump"))
    assert not_empty.returncode == 1
    assert "not empty" in not_empty.stderr
