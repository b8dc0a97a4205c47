"""One job through every service, as a user sees it: over HTTP with the client, with nothing reached behind its back."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from standardwebhooks.webhooks import Webhook

from deploy.local.emulator import Emulator
from deploy.local.postgres import EmbeddedPostgres
from piecework import Client
from services.platform.database import connect_database
from tests.conftest import OpenClients, quick_settings
from tests.grid import ProcessGrid
from tests.until import until

KEY = "pw_end_to_end"


class Receiver:
    """A webhook receiver: a server that takes one POST a connection and says 204."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], str]] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
        headers = dict(line.lower().split(": ", 1) if ": " in line else (line, "") for line in head)
        originals = dict(line.split(": ", 1) for line in head)
        body = await reader.readexactly(int(headers["content-length"]))
        self.received.append(({name.lower(): value for name, value in originals.items()}, body.decode()))
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


@pytest.fixture
async def receiver() -> AsyncIterator[tuple[Receiver, str]]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.handle, "127.0.0.1", 0)
    yield receiver, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    server.close()


@pytest.fixture(scope="module")
async def grid(
    postgres: EmbeddedPostgres, template: str, ministack: Emulator, clients: OpenClients, tmp_path_factory: Any
) -> AsyncIterator[ProcessGrid]:
    """With its database and its bucket, for all tests of this module: its processes take long to start."""
    name = f"e2e-{uuid4().hex}"
    settings = quick_settings(await postgres.create_database(name, template), ministack, name)
    aws = await clients(ministack)
    await aws.s3.create_bucket(Bucket=name)
    async with await connect_database(settings.database_url) as database:
        grid = ProcessGrid(settings, database, aws, tmp_path_factory.mktemp("grid"))
        await grid.prepare()
        yield grid
        grid.stop()


@pytest.fixture(scope="module")
async def client(grid: ProcessGrid) -> AsyncIterator[Client]:
    """A client of API, stats, scheduler, and two workers, each a process of its own."""
    grid.start_scheduler()
    grid.start_worker()
    grid.start_worker()
    async with grid.client(KEY) as client:
        yield client


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "words.txt"
    path.write_text("".join(f"{'abc'[number % 3]} {number}\n" for number in range(3000)) + "no number\n")
    yield path


async def test_from_a_local_file_to_checked_results(
    client: Client, receiver: tuple[Receiver, str], lines: Path, tmp_path: Path
) -> None:
    hook, url = receiver
    endpoint = await asyncio.to_thread(client.create_webhook_endpoint, url)
    uploaded = await asyncio.to_thread(client.upload, lines)
    spec = {
        "name": "words",
        "labels": {"run": "first"},
        "input": {"type": "lines", "uri": uploaded["uri"], "part_bytes": 2000},
        "stages": [{"name": "clean", "processor": "clean"}, {"name": "count", "processor": "count"}],
        "merge": {"type": "reduce", "processor": "total"},
    }
    job = await asyncio.to_thread(client.submit_job, spec)
    job_id = job["job_id"]

    async def ended() -> Any:
        job = await asyncio.to_thread(client.get_job, job_id)
        return job if job["state"] in ("succeeded", "failed", "cancelled") else None

    job = await until(ended)

    # The job, its stages and its exact progress.
    assert (job["state"], job["error"]) == ("succeeded", None)
    parts = job["stages"][0]["task_count"]
    assert parts >= 10
    assert [(stage["name"], stage["state"], stage["progress"]["succeeded"]) for stage in job["stages"]] == [
        ("clean", "succeeded", parts),
        ("count", "succeeded", parts),
        ("reduce", "succeeded", 1),
    ]
    assert [found["job_id"] for found in client.list_jobs(label={"run": "first"})] == [job_id]

    # The results, downloaded through presigned links, equal a direct computation.
    results = await asyncio.to_thread(client.get_results, job_id)
    files = [*results["files"], results["manifest"]]
    assert all(file["checksum_crc32"] for file in files)  # which the download verifies
    await asyncio.to_thread(client.download, files, tmp_path / "results")
    totals = json.loads((tmp_path / "results" / "totals.json").read_text())
    assert totals == {letter: sum(range(start, 3000, 3)) for start, letter in enumerate("abc")}
    [reject] = map(json.loads, (tmp_path / "results" / "rejects.jsonl").read_text().splitlines())
    assert reject["record"] == "no number"
    manifest = json.loads((tmp_path / "results" / "manifest.json").read_text())
    assert manifest["job_id"] == job_id
    assert manifest["totals"]["parts"] == len(manifest["parts"]) == parts

    # Every record is accounted for.
    counts = {"in": 3001, "out": 3000, "rejected": 1, "filtered": 0, "added": 0, "balanced": True}
    assert (job["stages"][0]["records"], job["warnings"]) == (counts, [])
    assert [stage["records"] for stage in manifest["stages"]] == [stage["records"] for stage in job["stages"]]

    # Tasks and attempts.
    task = await asyncio.to_thread(client.get_task, job_id, 0, 0)
    assert [attempt["outcome"] for attempt in task["attempts"]] == ["succeeded"]

    # Statistics agree, as soon as the roll-up has them all.
    async def rolled_up() -> Any:
        stats = await asyncio.to_thread(client.get_job_stats, job_id)
        return stats if sum(s["attempts_by_outcome"].get("succeeded", 0) for s in stats["stages"]) > 2 * parts else None

    stats = await until(rolled_up)
    assert stats["stages"][0]["records_in"] == 3001
    assert stats["stages"][0]["records_rejected"] == 1
    assert stats["seconds_left"] == 0

    # The webhook, signed.
    async def told() -> bool:
        return bool(hook.received)

    await until(told)
    [(headers, body)] = hook.received
    event = Webhook(endpoint["secret"]).verify(body, headers)
    assert (event["type"], event["data"]["job_id"]) == ("job.succeeded", job_id)


async def test_a_failed_job_says_why_and_can_be_retried(client: Client) -> None:
    spec = {
        "name": "failing",
        "input": {"type": "items", "items": ["x 1", 2]},
        "stages": [{"processor": "count", "retry": {"max_attempts": 2, "backoff_seconds": 0}}],
    }
    job_id = (await asyncio.to_thread(client.submit_job, spec))["job_id"]

    async def failed() -> Any:
        job = await asyncio.to_thread(client.get_job, job_id)
        return job if job["state"] == "failed" else None

    job = await until(failed)
    assert job["error"]["type"] == "stage_failed"
    assert "TypeError" in job["error"]["message"]
    log = await asyncio.to_thread(client.get_task_log, job_id, 0, 0)
    assert b"Traceback" in await asyncio.to_thread(client.read_object, log["url"])

    await asyncio.to_thread(client.retry_job, job_id)
    job = await until(failed)
    task = await asyncio.to_thread(client.get_task, job_id, 0, 0)
    assert task["attempt"] > 2
