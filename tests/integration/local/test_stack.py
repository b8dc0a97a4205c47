"""`python -m deploy.local`: what a user of the local stack sees, and what it keeps."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest

from deploy.local.postgres import EmbeddedPostgres
from deploy.local.process import STACK_VARIABLE
from tests.conftest import free_port
from tests.until import until

pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True)
class LocalStack:
    """A stack of the test's own, driven by its command line."""

    state: Path
    ports: dict[str, str]

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        settings = {"PIECEWORK_STATE_DIRECTORY": str(self.state), "PIECEWORK_WORKERS": "1", **self.ports, **environment}
        return subprocess.run(
            [sys.executable, "-m", "deploy.local", *command],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def client(self) -> httpx.Client:
        profile = json.loads((self.state / "client.json").read_text())
        return httpx.Client(base_url=profile["api_url"], headers={"Authorization": f"Bearer {profile['api_key']}"})

    def record(self) -> Any:
        return json.loads((self.state / "stack.json").read_text())

    def processes(self) -> list[psutil.Process]:
        """All that belongs to the stack, its supervisor aside."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(STACK_VARIABLE) == str(self.state):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    """A running stack; each test leaves it running."""
    with tempfile.TemporaryDirectory(prefix="piecework-test-", ignore_cleanup_errors=True) as directory:
        ports = {f"PIECEWORK_{name}_PORT": str(free_port()) for name in ("API", "STATS", "EMULATOR")}
        stack = LocalStack(Path(directory).resolve() / "state", ports)
        started = stack.run("up")
        assert started.returncode == 0, started.stdout + started.stderr
        yield stack
        stack.run("down")


@pytest.fixture(scope="module")
async def job_id(stack: LocalStack) -> str:
    """A job that ran on the stack and succeeded."""
    with stack.client() as api:
        registered = api.post("/v1/processors", json={"name": "nothing", "description": "", "builtin": "noop"})
        assert registered.status_code == 201, registered.text
        job = {"input": {"type": "range", "count": 3}, "stages": [{"processor": "nothing"}]}
        submitted = api.post("/v1/jobs", json=job)
        assert submitted.status_code == 201, submitted.text
        job_id = str(submitted.json()["job_id"])
        await until(lambda: api.get(f"/v1/jobs/{job_id}").json()["state"] == "succeeded")
    return job_id


def test_it_tells_where_everything_is(stack: LocalStack) -> None:
    shown = stack.run("status")
    assert shown.returncode == 0
    for name in ("postgres", "emulator", "api", "scheduler", "stats", "fleet", "worker i-"):
        assert name in shown.stdout
    assert f"http://127.0.0.1:{stack.ports['PIECEWORK_API_PORT']}/docs" in shown.stdout


def test_a_second_start_says_that_it_is_up(stack: LocalStack) -> None:
    supervisor = stack.record()["pid"]
    again = stack.run("up")
    assert again.returncode == 0
    assert "up already" in again.stdout
    assert stack.record()["pid"] == supervisor


def test_keys_and_passwords_are_for_their_owner_only(stack: LocalStack) -> None:
    for name in ("client.json", "postgres.passwords.json"):
        assert (stack.state / name).stat().st_mode & 0o077 == 0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_no_service_shows_a_key_or_a_password_in_its_environment(stack: LocalStack) -> None:
    secrets = [json.loads((stack.state / "client.json").read_text())["api_key"], "AWS_SECRET_ACCESS_KEY"]
    secrets += json.loads((stack.state / "postgres.passwords.json").read_text()).values()
    services = ("api", "scheduler", "stats", "fleet")
    roots = [psutil.Process(pid) for name, pid in stack.record()["processes"].items() if name in services]
    processes = [process for root in roots for process in (root, *root.children(recursive=True))]
    assert len(processes) > len(services)  # and a worker
    for process in processes:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # a worker's first try has ended
            shown = Path(f"/proc/{process.pid}/environ").read_text()
            assert not [secret for secret in secrets if secret in shown], process.cmdline()


async def test_nobody_comes_into_the_database_without_a_password(stack: LocalStack) -> None:
    server = EmbeddedPostgres(stack.state / "postgres")
    for user in ("postgres", "piecework_worker_login"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.url(user=user).replace(server.passwords[user], "guessed"))
    connection = await asyncpg.connect(server.url())
    users = await connection.fetch("SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = 'piecework'")
    await connection.close()
    services = {f"piecework_{service}_login" for service in ("api", "scheduler", "worker", "stats")}
    assert {row["usename"] for row in users} - {"postgres"} == services


def test_a_stop_leaves_no_process_and_a_start_finds_jobs_and_results(stack: LocalStack, job_id: str) -> None:
    assert stack.run("down").returncode == 0
    assert stack.processes() == []
    assert stack.run("status").returncode == 3

    assert stack.run("up").returncode == 0

    assert_job_is_there(stack, job_id)


async def test_a_restore_puts_a_dump_in_the_databases_place(stack: LocalStack, job_id: str, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    dumped = stack.run("dump", str(path))
    assert dumped.returncode == 0, dumped.stderr
    with stack.client() as api:
        later = api.post("/v1/processors", json={"name": "later", "description": "", "builtin": "noop"})
        assert later.status_code == 201
    refused = stack.run("restore", str(path))
    assert (refused.returncode, refused.stderr) == (1, "Piecework cannot run: it is up: `make down` first\n")

    assert stack.run("down").returncode == 0
    assert "its database is not up" in stack.run("dump", str(path)).stderr
    (tmp_path / "not-a-dump").write_text("no")
    broken = stack.run("restore", str(tmp_path / "not-a-dump"))
    assert (broken.returncode, "pg_restore failed" in broken.stderr) == (1, True)
    restored = stack.run("restore", str(path))
    assert restored.returncode == 0, restored.stderr
    assert "what was there is kept as the database piecework_until_" in restored.stdout
    assert stack.run("up").returncode == 0

    assert_job_is_there(stack, job_id)
    with stack.client() as api:
        assert [each["name"] for each in api.get("/v1/processors").json()["items"]] == ["nothing"]
        job = {"input": {"type": "range", "count": 3}, "stages": [{"processor": "nothing"}]}
        again = api.post("/v1/jobs", json=job).json()["job_id"]
        await until(lambda: api.get(f"/v1/jobs/{again}").json()["state"] == "succeeded")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
async def test_after_a_kill_of_the_supervisor_nothing_is_left_and_a_start_works(stack: LocalStack, job_id: str) -> None:
    os.kill(stack.record()["pid"], signal.SIGKILL)
    await until(lambda: stack.processes() == [])

    assert stack.run("up").returncode == 0

    assert_job_is_there(stack, job_id)


async def test_a_killed_service_comes_back(stack: LocalStack, job_id: str) -> None:
    before = stack.record()["processes"]
    for name in ("api", "emulator", "postgres"):
        os.kill(before[name], signal.SIGKILL)

    def is_well() -> bool:
        after = stack.record()["processes"]
        if any(after[name] == before[name] for name in ("api", "emulator", "postgres")):
            return False
        try:
            with stack.client() as api:
                return api.get("/readyz").status_code == 200 and api.get(f"/v1/jobs/{job_id}").status_code == 200
        except httpx.TransportError:
            return False

    await until(is_well)


def assert_job_is_there(stack: LocalStack, job_id: str) -> None:
    with stack.client() as api:
        assert api.get(f"/v1/jobs/{job_id}").json()["state"] == "succeeded"
        manifest = api.get(f"/v1/jobs/{job_id}/results").json()["manifest"]
    assert httpx.get(manifest["url"]).json()["totals"]["parts"] == 3


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        refused = LocalStack(tmp_path, {}).run("up", PIECEWORK_API_PORT=port, PIECEWORK_STATS_PORT=str(free_port()))
    assert refused.returncode == 1
    [line] = (refused.stdout + refused.stderr).strip().splitlines()
    assert line.startswith(f"Piecework cannot run: port {port} is in use by ")
    assert "PIECEWORK_API_PORT=" in line


def test_a_setting_that_is_not_a_port_is_one_line(tmp_path: Path) -> None:
    refused = LocalStack(tmp_path, {}).run("up", PIECEWORK_API_PORT="eight thousand")
    assert refused.returncode == 1
    [line] = refused.stderr.strip().splitlines()
    assert line.startswith("PIECEWORK_API_PORT=eight thousand: ")
