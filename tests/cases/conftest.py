"""A local stack that all cases share: they go in as users' jobs do, and their results come out as users' do."""

import contextlib
import csv
import io
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from piecework import Client
from piecework.cli import app
from piecework.shapes import Job, Task
from piecework.watch import wait_for_job
from tests.conftest import free_port
from tests.integration.local.test_stack import LocalStack

DATA = Path(__file__).parent / "data"

Spec = dict[str, Any]
Record = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """A job as it ended, and what its users can fetch."""

    job: Job
    files: dict[str, bytes]
    tasks: list[Task]

    @property
    def state(self) -> str:
        return self.job["state"]

    @property
    def error(self) -> str:
        """Why the job failed: the message of its first failed task, or else the job's own."""
        failures = [task["error"]["message"] for task in self.tasks if task["error"] and task["state"] == "failed"]
        return failures[0] if failures else str((self.job["error"] or {}).get("message", ""))

    @property
    def error_code(self) -> str:
        failures = [task["error"]["type"] for task in self.tasks if task["error"] and task["state"] == "failed"]
        return failures[0] if failures else str((self.job["error"] or {}).get("type", ""))

    @property
    def attempts(self) -> int:
        """The most that a task was tried."""
        return max(task["attempt"] for task in self.tasks)

    def lines(self, *without: str) -> list[str]:
        """Lines of all result files, in the order of the files' names, but rejects and those named."""
        bodies = [body for name, body in sorted(self.files.items()) if name not in ("rejects.jsonl", *without)]
        return [line for body in bodies for line in body.decode().splitlines()]

    def records(self) -> list[Record]:
        """Records of all result files but rejects: strict JSON lines, CSV or Parquet by the files' names."""
        names = [name for name in sorted(self.files) if name != "rejects.jsonl"]
        return [record for name in names for record in read_records(name, self.files[name])]

    def rejects(self) -> list[Record]:
        return read_records("rejects.jsonl", self.files.get("rejects.jsonl", b""))


def read_records(name: str, body: bytes) -> list[Record]:
    if name.endswith(".parquet"):
        return list(pq.read_table(io.BytesIO(body)).to_pylist())
    if name.endswith(".csv"):
        return list(csv.DictReader(io.StringIO(body.decode(), newline="")))
    return [json.loads(line, parse_constant=_no_json) for line in body.decode().split("\n") if line]


def _no_json(literal: str) -> None:
    raise AssertionError(f"{literal} is not JSON")


class CaseGrid:
    """The stack's users: one with the command, one with the client, and S3 beside them."""

    def __init__(self, stack: LocalStack) -> None:
        profile = json.loads((stack.state / "client.json").read_text())
        self.environment = {f"PIECEWORK_{name}".upper(): profile[name] for name in ("api_url", "stats_url", "api_key")}
        self.client = Client(profile["api_url"], profile["api_key"])
        self.state = stack.state
        self.s3 = boto3.client(
            "s3",
            endpoint_url=stack.record()["emulator_url"],
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        self.bucket = "piecework"
        self._pushed: set[Path] = set()

    def push(self, directory: Path | str = "pkg") -> None:
        """`piecework processors push` of a directory, by default the one that the cases share; once.

        Its jobs share warm children: to start some for each would take longer than all else.
        """
        path = DATA / directory
        if path not in self._pushed:
            with tempfile.TemporaryDirectory() as place:
                copy = shutil.copytree(path, Path(place) / path.name)
                for file in copy.glob("processors/*.yaml"):
                    file.write_text(file.read_text() + "\nshare_children: true\n")
                self.command("processors", "push", str(copy))
            self._pushed.add(path)

    def command(self, *arguments: str, directory: Path = DATA, fails: bool = False) -> str:
        """What the command printed."""
        with contextlib.chdir(directory):
            result = CliRunner(env=self.environment).invoke(app, arguments, catch_exceptions=False)
        assert (result.exit_code != 0) == fails, result.stdout + result.stderr
        return result.stdout + result.stderr if fails else result.stdout

    def put(self, bodies: dict[str, bytes | str]) -> str:
        """Objects by name, under a prefix of their own, whose URI is returned; it ends with a slash."""
        prefix = f"cases/{uuid4().hex}/"
        for name, body in bodies.items():
            data = body.encode() if isinstance(body, str) else body
            self.s3.put_object(Bucket=self.bucket, Key=prefix + name, Body=data)
        return f"s3://{self.bucket}/{prefix}"

    def put_case(self, case: str) -> str:
        """The files of a case, under a prefix of their own."""
        root = DATA / case
        return self.put({str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()})

    def run(self, input: Spec | Sequence[Spec], *stages: str | Spec, merge: Spec | None = None, **job: Any) -> Ended:
        """Submit a job, and wait for its end; a stage may be the name of its processor."""
        return self.ended(self.submit(input, *stages, merge=merge, **job))

    def run_each(self, jobs: Sequence[tuple[Spec | Sequence[Spec], str | Spec]]) -> list[Ended]:
        """Jobs of one input and one stage each, side by side."""
        return [self.ended(job_id) for job_id in [self.submit(input, stage) for input, stage in jobs]]

    def submit(self, input: Spec | Sequence[Spec], *stages: str | Spec, merge: Spec | None = None, **job: Any) -> str:
        self.push()
        spec: Spec = {
            "input": input if isinstance(input, dict) else list(input),
            "stages": [{"processor": stage} if isinstance(stage, str) else stage for stage in stages],
            **({"merge": merge} if merge else {}),
            **job,
        }
        return self.client.submit_job(spec)["job_id"]

    def run_file(self, path: Path | str) -> Ended:
        """`piecework submit` of a job file, as it is."""
        file = DATA / path
        job = json.loads(self.command("submit", file.name, "--json", directory=file.parent))
        return self.ended(job["job_id"])

    def ended(self, job_id: str) -> Ended:
        job = wait_for_job(self.client, job_id)
        tasks = [task for stage in job["stages"] for task in self.client.list_tasks(job_id, stage=stage["stage"])]
        files = {}
        if job["state"] == "succeeded":
            found = self.client.get_results(job_id)["files"]
            files = {file["name"]: self.client.read_object(file["url"]) for file in found}
        return Ended(job, files, tasks)

    def log(self, ended: Ended, stage: int, index: int) -> str:
        """What a task's last attempt printed."""
        log = self.client.get_task_log(ended.job["job_id"], stage, index)
        return self.client.read_object(log["url"]).decode()


@pytest.fixture(scope="session")
def grid() -> Iterator[CaseGrid]:
    with tempfile.TemporaryDirectory(prefix="piecework-test-", ignore_cleanup_errors=True) as directory:
        ports = {f"PIECEWORK_{name}_PORT": str(free_port()) for name in ("API", "STATS", "EMULATOR")}
        stack = LocalStack(Path(directory).resolve() / "state", ports)
        started = stack.run("up")
        assert started.returncode == 0, started.stdout + started.stderr
        yield CaseGrid(stack)
        stack.run("down")
