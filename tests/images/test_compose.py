"""docker-compose.yml, as it is, runs the flights example; where no registry is within reach, on a stand-in Postgres."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.images.compose import compose_command, make_postgres
from deploy.images.engine import STATE, Engine

ROOT = Path(__file__).parents[2]
SHARED = STATE / "flights"  # within the project, which the client's container sees


class Stack:
    """docker-compose.yml under a name of its own, on free ports."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        self._engine = engine
        files = [str(ROOT / "docker-compose.yml")]
        if engine.ours:
            replaced = directory / "postgres.json"
            replaced.write_text(json.dumps({"services": {"postgres": {"image": make_postgres(engine)}}}))
            files.append(str(replaced))
        environment = directory / "variables"
        environment.write_text(
            _passwords(directory) + "".join(f"PIECEWORK_{n}_PORT=0\n" for n in ("API", "STATS", "EMULATOR"))
        )
        self._command = [
            *compose_command(engine),
            *("--project-directory", str(ROOT), "--project-name", f"piecework-test-{os.getpid()}"),
            *("--env-file", str(environment)),
            *(part for file in files for part in ("--file", file)),
        ]

    def run(self, *arguments: str) -> str:
        ran = subprocess.run(
            [*self._command, *arguments],
            cwd=ROOT,
            env={**os.environ, "DOCKER_HOST": self._engine.url},
            stdout=subprocess.PIPE,
            check=True,
        )
        return ran.stdout.decode()

    def wait_until_ready(self, seconds: float = 180.0) -> None:
        """Until the API answers at the port that the file publishes."""
        place = self.run("port", "api", "8000").strip()
        give_up_at = time.monotonic() + seconds
        while True:
            try:
                urllib.request.urlopen(f"http://{place}/readyz", timeout=10).close()
                return
            except OSError:
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(0.5)

    def client(self, *arguments: str) -> str:
        return self.run("run", "--rm", "-T", "client", *arguments)


def _passwords(directory: Path) -> str:
    """What the project's script writes into .env, in a copy of the project: the real one may have its own."""
    (directory / "deploy" / "docker").mkdir(parents=True)
    script = shutil.copy(ROOT / "deploy" / "docker" / "passwords.sh", directory / "deploy" / "docker")
    subprocess.run(["sh", script], check=True, capture_output=True)
    return (directory / ".env").read_text()


@pytest.fixture
def stack(engine: Engine, images: dict[str, str], tmp_path: Path) -> Iterator[Stack]:
    made = Stack(engine, tmp_path)
    try:
        made.run("up", "--detach", "--no-build", "--quiet-pull", "--scale", "worker=2")
        made.wait_until_ready()
        yield made
    finally:
        made.run("down", "--volumes", "--timeout", "10")


@pytest.mark.timeout(600)
def test_the_stack_runs_the_flights_example(stack: Stack) -> None:
    shutil.rmtree(SHARED, ignore_errors=True)
    results = SHARED / "results" / "flight-delays"
    results.mkdir(parents=True)
    results.chmod(0o777)  # the client's container has its own user
    example = ROOT / "examples" / "flights"
    subprocess.run([sys.executable, example / "data.py", SHARED / "data"], check=True, capture_output=True)
    shared = SHARED.relative_to(ROOT)
    assert "flights-clean@1" in stack.client("processors", "push", "examples/flights")
    told = stack.client("submit", "examples/flights/job.yaml", "--directory", f"{shared}/data", "--watch")
    job_id = told.split()[0]
    assert json.loads(stack.client("job", job_id, "--json"))["state"] == "succeeded", told
    stack.client("results", job_id, "--download", f"{shared}/results/flight-delays/")
    checked = subprocess.run(
        [sys.executable, example / "check.py", SHARED / "data", SHARED / "results"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
