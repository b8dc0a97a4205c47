"""The real API and stats service on real ports, and the command as its users run it."""

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from typer.testing import CliRunner

from piecework.cli import app
from services.platform.auth import Role, hash_secret, new_secret
from services.platform.aws import Aws
from services.platform.database import Database, new_id
from services.platform.settings import Settings
from services.stats.main import create_app as create_stats
from tests.apps import api_app
from tests.conftest import free_port
from tests.integration.api.conftest import PlayedWorker


class Server:
    """A service on a port, that can be stopped and started again."""

    def __init__(self, create: Callable[[], FastAPI]) -> None:
        self._create = create
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Returns when it serves."""
        self._server = uvicorn.Server(uvicorn.Config(self._create(), port=self._port, log_level="critical"))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.01)
            assert self._thread.is_alive(), "the service did not start"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Without logs: they would mix with what the command prints."""
    return settings.model_copy(update={"log_level": "CRITICAL"})


@pytest.fixture
def api(settings: Settings, aws: Aws) -> Iterator[Server]:
    server = Server(lambda: api_app(settings))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def stats(settings: Settings) -> Iterator[Server]:
    server = Server(lambda: create_stats(settings))
    server.start()
    yield server
    server.stop()


@dataclass(frozen=True)
class Done:
    """How a run of the command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Command:
    """`piecework` against the services of the test, as one user."""

    environment: dict[str, str]
    directory: Path

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """A process of its own, to be followed and interrupted."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "piecework",
            *arguments,
            env=os.environ | self.environment,
            cwd=self.directory,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str) -> Done:
        runner = CliRunner(env=self.environment)
        with contextlib.chdir(self.directory):
            result = await asyncio.to_thread(runner.invoke, app, arguments, catch_exceptions=False)
        return Done(result.exit_code, result.stdout, result.stderr)

    async def __call__(self, *arguments: str) -> str:
        """What a successful run printed on standard output."""
        done = await self.run(*arguments)
        assert done.code == 0, done
        return done.out.strip()

    def as_user(self, secret: str) -> "Command":
        return Command(self.environment | {"PIECEWORK_API_KEY": secret}, self.directory)


async def new_key(database: Database, role: Role) -> str:
    secret = new_secret()
    await database.execute(
        "INSERT INTO api_keys (key_id, name, role, key_hash) VALUES ($1, $2, $3, $4)",
        new_id(),
        role,
        role,
        hash_secret(secret),
    )
    return secret


@pytest.fixture
async def piecework(api: Server, database: Database, tmp_path: Path) -> Command:
    """As an operator, in a directory of its own, with a pool `default` and a processor `noop`."""
    environment = {"PIECEWORK_API_URL": api.url, "PIECEWORK_API_KEY": await new_key(database, "operator")}
    command = Command(environment, tmp_path)
    await command("pools", "put", "default")
    await command("processors", "register", "noop", "--builtin", "noop")
    return command


@pytest.fixture
async def grid(piecework: Command, database: Database) -> PlayedWorker:
    """Plays the scheduler and a worker."""
    grid = PlayedWorker(database)
    await grid.register()
    return grid
