"""The servers that peers need, each started afresh: Redis, the AWS emulator that Piecework runs on, Postgres."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from bench.processes import await_ready, spawn, stop_tree
from deploy.local.emulator import AWS_ENVIRONMENT, Emulator
from deploy.local.postgres import EmbeddedPostgres
from deploy.local.process import ROOT

PEERS_BIN = ROOT / ".venv-peers" / "bin"

# Durable as Redis users have it: appended to a file that is synced once a second.
_REDIS = ["--appendonly", "yes", "--save", "", "--bind", "127.0.0.1"]


class Brokers:
    """Running servers by name, and the variables by which programs find them."""

    def __init__(self, directory: Path) -> None:
        self.processes: dict[str, psutil.Popen] = {}
        self.environment: dict[str, str] = {}
        self._directory = directory

    def start(self, name: str) -> None:
        {"redis": self._start_redis, "emulator": self._start_emulator, "postgres": self._start_postgres}[name]()

    def stop(self) -> None:
        for name, process in self.processes.items():
            stop_tree([process], signal.SIGINT if name == "postgres" else signal.SIGTERM)

    def _start_redis(self) -> None:
        port = _free_port()
        command = [str(PEERS_BIN / "redis-server"), *_REDIS, "--port", str(port), "--dir", str(self._directory)]
        self._spawn("redis", command, lambda: _accepts(port))
        self.environment["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"

    def _start_emulator(self) -> None:
        emulator = Emulator(_free_port(), state=self._directory / "emulator")
        self._spawn("emulator", emulator.command, emulator.is_ready, environment=os.environ | emulator.environment)
        self.environment |= {"AWS_ENDPOINT_URL": emulator.url, **AWS_ENVIRONMENT}

    def _start_postgres(self) -> None:
        postgres = EmbeddedPostgres(self._directory / "postgres")
        postgres.prepare()
        self._spawn(
            "postgres",
            postgres.command,
            lambda: postgres.is_ready(self.processes["postgres"].pid),
            stop_signal=signal.SIGINT,
            **postgres.identity,
        )
        self.environment["DATABASE_URL"] = asyncio.run(postgres.create_database("bench"))

    def _spawn(self, name: str, command: Sequence[str], ready: Callable[[], bool], **options: Any) -> None:
        log = self._directory / f"{name}.log"
        self.processes[name] = spawn(command, log=log, **options)
        await_ready(name, self.processes[name], log, ready)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running_brokers(names: Iterable[str], directory: Path) -> Iterator[Brokers]:
    """Start these servers; stop them at the end."""
    brokers = Brokers(directory)
    try:
        for name in names:
            brokers.start(name)
        yield brokers
    finally:
        brokers.stop()
