"""A grid in real processes, for tests that kill them: scheduler and workers on a database and a bucket of its own."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from asyncpg import Record

from piecework import Client
from services.contract.location import Location
from services.engine.pools import register_pool
from services.engine.processors import register_processor
from services.engine.spec import JobSpec, ProcessorSpec
from services.engine.submission import submit_job
from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings
from tests.conftest import free_port
from tests.forks import Fork, Process
from tests.invariants import TERMINAL, assert_kept, rows_of
from tests.roles import as_role, let_in
from tests.until import until

PROCESSORS = Path(__file__).parent / "processors"


def _answers(client: Client) -> bool:
    try:
        client.get_pool("default")
        client.list_pool_stats()
    except Exception:
        return False
    return True


class Gate:
    """Where gated tasks say that they have started, and wait until the test opens it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.path = str(directory)

    async def task_waits(self) -> None:
        """Wait until a task has started and waits."""

        async def started() -> list[Path]:
            return await asyncio.to_thread(lambda: list(Path(self.path).iterdir()))

        await until(started)

    def open(self) -> None:
        Path(self.path, "open").touch()


@dataclass
class ProcessGrid:
    """Starts and kills the services; submits the word-count job and checks its end."""

    settings: Settings
    database: Database
    aws: Aws
    directory: Path
    credentials: Callable[[str], dict[str, str]] = lambda service: {}  # for AWS, where services have their own
    processes: list[Process] = field(default_factory=list)

    async def prepare(self) -> None:
        """Queues, the pool, the processors and the raw data."""
        queue = (await self.aws.sqs.create_queue(QueueName=f"{self.settings.bucket}-default"))["QueueUrl"]
        dead = (await self.aws.sqs.create_queue(QueueName=f"{self.settings.bucket}-default-dead-letter"))["QueueUrl"]
        self.queue_url, self.dead_letter_url = queue, dead
        processors = {
            "clean": ProcessorSpec(records="words:clean"),
            "count": ProcessorSpec(callable="words:count", output="counts.json"),
            "total": ProcessorSpec(callable="words:total", output="totals.json"),
        }
        async with self.database.acquire() as connection, connection.transaction():
            await let_in(connection, self.settings.database_url)
            await register_pool(connection, "default", queue_url=queue, dead_letter_url=dead, group_name=None, slots=2)
            for name, spec in processors.items():
                await register_processor(connection, name, spec)
        lines = [f"{'abcdefghij'[number % 10]} {number}\n" for number in range(4000)]
        lines[1234] = "this line is broken\n"
        self.expected = {
            letter: sum(n for n in range(4000) if n % 10 == i and n != 1234) for i, letter in enumerate("abcdefghij")
        }
        await self.aws.s3.put_object(Bucket=self.settings.bucket, Key="words.txt", Body="".join(lines).encode())

    def environment(self, **extra: Any) -> dict[str, str]:
        values = self.settings.model_dump(exclude_none=True) | {
            "processor_path": PROCESSORS,
            "scratch": self.directory / "scratch",
            "cache": self.directory / "cache",
            "receive_wait_seconds": 1,
        }
        named = {f"PIECEWORK_{name.upper()}": str(value) for name, value in (values | extra).items()}
        return os.environ | named

    def start(self, flag: Literal["-m"], module: str, *arguments: str, **extra: Any) -> Fork:
        """Start `python -m <module> <arguments>` with the grid's settings."""
        environment, log = self._place([module, *arguments], **extra)
        process = Fork(module, *arguments, env=environment, log=log)
        self.processes.append(process)
        return process

    def spawn(self, command: Sequence[str], **extra: Any) -> subprocess.Popen[bytes]:
        """Start a command with the grid's settings."""
        environment, log = self._place(command, **extra)
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        self.processes.append(process)
        return process

    def _place(self, command: Sequence[str], **extra: Any) -> tuple[dict[str, str], Path]:
        """The environment of a service, with its role and its credentials, and its log."""
        service = next(part.split(".")[1] for part in command if part.startswith("services."))
        extra = {"database_url": as_role(self.settings.database_url, service)} | extra
        name = command[-1].rsplit("/", 1)[-1]
        environment = self.environment(**extra) | self.credentials(service)
        return environment, self.directory / f"{len(self.processes)}-{name}.log"

    def start_server(self, service: Literal["api", "stats"], **extra: Any) -> str:
        """Start the API or the statistics service; its URL."""
        port = free_port()
        self.start("-m", "uvicorn", "--port", str(port), "--no-access-log", f"services.{service}.main:app", **extra)
        return f"http://127.0.0.1:{port}"

    @asynccontextmanager
    async def client(self, key: str) -> AsyncIterator[Client]:
        """A client with this key of an API and a statistics service that are started for it, and answer."""
        api_url, stats_url = self.start_server("api", bootstrap_api_key=key), self.start_server("stats")
        with Client(api_url=api_url, stats_url=stats_url, api_key=key) as client:
            await until(lambda: asyncio.to_thread(_answers, client))
            yield client

    def start_scheduler(self, **extra: Any) -> Fork:
        return self.start("-m", "services.scheduler", **extra)

    def start_worker(self, **extra: Any) -> Fork:
        return self.start("-m", "services.worker", **extra)

    def stop(self) -> None:
        """End everything that still runs, in good order if it can."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    async def submit(self, **count_params: Any) -> UUID:
        """The word-count job: clean the lines of about 40 parts, count each part, add the counts up."""
        spec = JobSpec.model_validate(
            {
                "name": "words",
                "input": {
                    "type": "lines",
                    "uri": Location(self.settings.bucket, "words.txt").uri,
                    "part_bytes": 700,
                },
                "stages": [
                    {"processor": "clean", "retry": {"backoff_seconds": 0.1}},
                    {"processor": "count", "params": count_params, "retry": {"backoff_seconds": 0.1}},
                ],
                "merge": {"type": "reduce", "processor": "total"},
            }
        )
        return await self._submit(spec)

    async def submit_small(self, part_bytes: int = 40_000) -> UUID:
        """Only clean the lines, of which a part of 40,000 bytes has all."""
        words = {"type": "lines", "uri": Location(self.settings.bucket, "words.txt").uri, "part_bytes": part_bytes}
        return await self._submit(JobSpec.model_validate({"input": words, "stages": [{"processor": "clean"}]}))

    async def submit_squares(self, count: int, gated: int, gate: Gate, *, with_files: bool) -> UUID:
        """A job of short functions of numbers, or of files with one each, one of which waits at the gate."""
        spec = ProcessorSpec(callable="words:square_of_file") if with_files else ProcessorSpec(function="words:square")
        async with self.database.acquire() as connection, connection.transaction():
            await register_processor(connection, "square", spec)
        stage = {"processor": "square", "params": {"gate": gate.path, "gated": gated}}
        items = {"type": "items", "items": list(range(count))}
        return await self._submit(JobSpec.model_validate({"input": items, "stages": [stage]}))

    async def _submit(self, spec: JobSpec) -> UUID:
        async with self.database.acquire() as connection, connection.transaction():
            return await submit_job(connection, spec, settings=self.settings)

    async def job(self, job_id: UUID) -> Record:
        return await self.database.fetchrow("SELECT * FROM jobs WHERE job_id = $1", job_id)

    async def ended(self, job_id: UUID) -> Record:
        """Wait for the job's end."""

        async def terminal() -> Record | None:
            job = await self.job(job_id)
            return job if job["state"] in TERMINAL else None

        return await until(terminal)

    async def assert_right(self, job_id: UUID) -> None:
        """The job succeeded as if nothing had happened: every task once, the counters exact, the results identical."""
        job = await self.ended(job_id)
        assert (job["state"], job["error"]) == ("succeeded", None)
        rows = await rows_of(self.database, job_id)
        assert_kept(rows)
        assert {stage for _, stage, _ in rows.tasks} == {0, 1, 2}
        assert {task["state"] for task in rows.tasks.values()} == {"succeeded"}
        files = await self.result_files(job_id)
        assert json.loads(files["totals.json"]) == self.expected
        assert len(files["rejects.jsonl"].splitlines()) == 1

    async def assert_nothing_cut(self, job_id: UUID) -> None:
        """Every attempt that ran has succeeded.

        A task that only waited, or whose claim's reply was lost, may have been left to another worker.
        """
        cut = """SELECT * FROM attempts WHERE job_id = $1 AND outcome <> 'succeeded'
            AND (outcome <> 'released' OR run_seconds > fetch_seconds + 0.001 OR error IS NOT NULL)"""
        found = [dict(row) for row in await self.database.fetch(cut, job_id)]
        assert found == [], found

    async def result_files(self, job_id: UUID) -> dict[str, bytes]:
        """The job's result files by name."""
        result = await self.database.fetchval(
            "SELECT result FROM stages WHERE job_id = $1 ORDER BY stage DESC LIMIT 1", job_id
        )
        files = {}
        for file in result["files"]:
            place = Location.parse(file["uri"])
            answer = await self.aws.s3.get_object(Bucket=place.bucket, Key=place.key)
            files[file["name"]] = await answer["Body"].read()
        return files
