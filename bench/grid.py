"""The grid under measurement: Postgres, the AWS emulator and the four services, started here, counted, and stopped.

As `make up` starts them, but each service runs under bench.counted, and the workers are started directly instead of by
the stand-in for EC2; the pool has its Auto Scaling group all the same, so that the scheduler looks at it as it would.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.processes import Failed, await_ready, spawn, stop_tree
from bench.usage import Usage, measured
from deploy.local.process import ROOT
from deploy.local.settings import StackSettings, separate_stack
from piecework import Client

TERMINAL = ("succeeded", "failed", "cancelled")
APART = ("postgres", "emulator")  # what in AWS is RDS, S3 and SQS

# Else the emulator reads an object's whole file for each range of it: 1 GB by parts would be read 240 times.
_IN_MEMORY = {"S3_PERSIST": "0"}

TASKS = Path(__file__).parent / "processors"  # what the tasks run


class Grid:
    """A running grid of its own directory, ports, and processes by name."""

    def __init__(self, settings: StackSettings, workers: int, slots: int) -> None:
        self.workers, self.slots = workers, slots
        self.counts = settings.state / "counts"
        self.processes: dict[str, psutil.Popen] = {}
        self.settings = settings
        settings.logs.mkdir(parents=True)
        self.counts.mkdir()
        self._profile = settings.write_client_profile()
        os.environ["PIECEWORK_PROCESSOR_PATH"] = str(TASKS)
        os.environ["PIECEWORK_SLOTS"] = str(slots)
        self._environment = settings.environment()
        self.client = Client(settings.api_url, self._profile["api_key"], stats_url=settings.stats_url)

    @property
    def shape(self) -> dict[str, int]:
        return {"workers": self.workers, "slots": self.slots}

    @property
    def services(self) -> list[str]:
        return [name for name in self.processes if name not in APART]

    def start(self) -> None:
        self._start_postgres()
        emulator = self.settings.emulator
        self._spawn("emulator", emulator.command, emulator.environment | _IN_MEMORY)
        self._await("emulator", emulator.is_ready)
        environment = self._environment | self.settings.provision_environment(self._profile["api_key"])
        subprocess.run([sys.executable, "-m", "deploy.local.provision"], env=environment, cwd=ROOT, check=True)
        self.start_scheduler()
        self._start_web("api", self.settings.api_port)
        self._start_web("stats", self.settings.stats_port)
        for number in range(self.workers):
            self._start_service(f"worker {number}", "services.worker")
        self._await("api", lambda: _answers(f"{self.settings.api_url}/readyz"))
        self._await("stats", lambda: _answers(f"{self.settings.stats_url}/readyz"))
        self._await("worker 0", lambda: self.client.get_pool("default")["workers_live"] == self.workers)

    def stop(self) -> None:
        """One after the other, the last one started first: nobody loses the database under it."""
        self.client.close()
        for name, process in reversed(self.processes.items()):
            stop_tree([process], signal.SIGINT if name == "postgres" else signal.SIGTERM)
        self.settings.postgres.remove_socket_directory()

    @contextmanager
    def measured(self, sampled: Iterable[str] | None = None) -> Iterator[Usage]:
        """What all processes use until the context ends; memory is sampled of those named, by default the services."""
        with measured(self.processes, self.counts, self.services if sampled is None else sampled) as usage:
            yield usage

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._profile['api_key']}"}

    def submit(self, processor: str, tasks: int, **stage: Any) -> str:
        """Submit an array job of one stage; returns its id."""
        job = self.client.submit_job(
            {
                "name": f"{processor}-{tasks}",
                "input": {"type": "range", "count": tasks},
                "stages": [{"processor": processor, **stage}],
            }
        )
        return str(job["job_id"])

    def run_job(self, processor: str, tasks: int, **stage: Any) -> dict[str, Any]:
        """Submit an array job of one stage and wait for its end; every task must succeed."""
        return self.await_job(self.submit(processor, tasks, **stage))

    def await_job(self, job_id: str, poll_seconds: float = 0.5) -> dict[str, Any]:
        while (job := dict(self.client.get_job(job_id)))["state"] not in TERMINAL:
            time.sleep(poll_seconds)
        if job["state"] != "succeeded":
            raise Failed(f"the job {job['name']} ended as {job['state']}: {job['error']}")
        return job

    def start_scheduler(self) -> None:
        self._start_service("scheduler", "services.scheduler")

    def _start_postgres(self) -> None:
        postgres = self.settings.postgres
        postgres.prepare()
        process = self._spawn("postgres", postgres.command, stop_signal=signal.SIGINT, **postgres.identity)
        self._await("postgres", lambda: postgres.is_ready(process.pid))

    def _start_web(self, name: str, port: int) -> None:
        options = ["--port", str(port), "--no-access-log", "--log-level", "warning"]
        self._start_service(name, "uvicorn", f"services.{name}.main:app", *options)

    def _start_service(self, name: str, module: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "bench.counted", str(self.counts), module, *arguments]
        self._spawn(name, command, self.settings.service_environment(name.partition(" ")[0]))

    def _spawn(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None, **options: Any
    ) -> psutil.Popen:
        environment = self._environment | dict(environment or {})
        self.processes[name] = spawn(command, log=self._log(name), environment=environment, **options)
        return self.processes[name]

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        await_ready(name, self.processes[name], self._log(name), ready)

    def _log(self, name: str) -> Path:
        return self.settings.logs / f"{name}.log"


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False


@contextmanager
def running_grid(workers: int = 2, slots: int = 2) -> Iterator[Grid]:
    """Start a fresh grid; stop it and remove its data at the end."""
    with tempfile.TemporaryDirectory(prefix="piecework-bench-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)  # Postgres does not run as root
        grid = Grid(separate_stack(Path(directory), workers), workers, slots)
        try:
            grid.start()
            yield grid
        finally:
            grid.stop()
