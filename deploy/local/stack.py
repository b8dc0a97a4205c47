"""The local stack: one supervising process over Postgres, the AWS emulator, the services and the fleet of workers."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable

from deploy.local.local_http import get, get_json
from deploy.local.logs import keep_small
from deploy.local.postgres import PostgresError
from deploy.local.progress import say
from deploy.local.settings import StackSettings
from deploy.local.supervisor import Service, StackError, Supervisor

_WORKERS_SECONDS = 30.0

# Stopped one row after the other, so no worker loses its database.
_STOP_ORDER = [["fleet"], ["scheduler", "api", "stats"], ["emulator", "postgres"]]


class Stack:
    """One run of the stack. Progress goes to standard output."""

    def __init__(self, settings: StackSettings) -> None:
        self._settings = settings
        self._started = time.monotonic()
        settings.logs.mkdir(parents=True, exist_ok=True)
        self._shortening: asyncio.Task[None] | None = None
        self._api_key = settings.write_client_profile()["api_key"]
        self._supervisor = Supervisor(settings.environment(), settings.logs, self._write_record)

    async def start(self) -> None:
        """Start everything, in parallel where possible; raises StackError."""
        self._shortening = asyncio.create_task(keep_small(self._settings.logs))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._start(self._postgres()))
                group.create_task(self._start(self._emulator()))
                group.create_task(self._supervisor.start(self._fleet()))
                group.create_task(self._provision())
            async with asyncio.TaskGroup() as group:
                for service in (self._api(), self._scheduler(), self._stats()):
                    group.create_task(self._start(service))
            await self._await_workers()
        except* (StackError, PostgresError, OSError) as errors:
            raise StackError(_first_line(errors)) from None

    async def stop(self) -> None:
        """Stop everything that runs, in order. Safe at any moment."""
        if self._shortening is not None:
            self._shortening.cancel()
        for names in _STOP_ORDER:
            running = [name for name in names if name in self._supervisor.processes]
            if running:
                say(f"  stopping {', '.join(running)}")
                await asyncio.gather(*(self._supervisor.stop(name) for name in running))
        self._settings.postgres.remove_socket_directory()
        (self._settings.state / "stack.json").unlink(missing_ok=True)

    async def _start(self, service: Service) -> None:
        await self._supervisor.start(service)
        self._report(service.name)

    async def _await_workers(self) -> None:
        """Wait until the workers that the pool should have are there; the stack is useful without them, too."""
        deadline = time.monotonic() + _WORKERS_SECONDS
        live, desired = 0, 1
        while live < desired and time.monotonic() < deadline:
            pool = await get_json(f"{self._settings.api_url}/v1/pools/default", self._api_key)
            if pool is not None:
                live, desired = pool["workers_live"], pool["capacity_desired"]
            await asyncio.sleep(0.05)
        self._report(
            f"{live} workers" if live >= desired else f"{live} of {desired} workers yet: see {self._settings.logs}"
        )

    async def _provision(self) -> None:
        command = [sys.executable, "-m", "deploy.local.provision"]
        await self._supervisor.run_once("provision", command, self._settings.provision_environment(self._api_key))
        self._report("schema, bucket, queues, pool")

    def _report(self, what: str) -> None:
        say(f"  {time.monotonic() - self._started:4.1f} s  {what}")

    def _write_record(self) -> None:
        record = {
            "pid": os.getpid(),
            "processes": {name: process.pid for name, process in self._supervisor.processes.items()},
            "api_url": self._settings.api_url,
            "stats_url": self._settings.stats_url,
            "scheduler_url": f"http://127.0.0.1:{self._settings.scheduler_port}",
            "emulator_url": self._settings.emulator.url,
        }
        draft = self._settings.state / "stack.json.new"
        try:
            draft.write_text(json.dumps(record, indent=2) + "\n")
            draft.replace(self._settings.state / "stack.json")
        except OSError as error:  # a full disk must not keep anything from being stopped
            say(f"stack.json not written: {error}")

    def _postgres(self) -> Service:
        postgres = self._settings.postgres

        async def ready(pid: int) -> bool:
            return postgres.is_ready(pid)

        return Service(
            "postgres",
            postgres.command,
            ready,
            stop_signal=signal.SIGINT,
            stop_seconds=30,
            options=postgres.identity,
            prepare=postgres.prepare,
        )

    def _emulator(self) -> Service:
        emulator = self._settings.emulator
        return Service(
            "emulator",
            emulator.command,
            _answers(f"{emulator.url}/_ministack/health"),
            stop_seconds=15,
            environment=emulator.environment,
            restarted=self._provision,
        )

    def _api(self) -> Service:
        return _uvicorn("api", self._settings.api_port, self._settings.service_environment("api"))

    def _stats(self) -> Service:
        return _uvicorn("stats", self._settings.stats_port, self._settings.service_environment("stats"))

    def _scheduler(self) -> Service:
        return Service(
            "scheduler",
            [sys.executable, "-m", "services.scheduler"],
            _at_once,
            environment={
                **self._settings.service_environment("scheduler"),
                "PIECEWORK_HEALTH_PORT": str(self._settings.scheduler_port),
            },
        )

    def _fleet(self) -> Service:
        return Service(
            "fleet",
            [sys.executable, "-m", "deploy.local.fleet"],
            _at_once,
            stop_seconds=self._settings.drain_seconds + 15,
            environment=self._settings.service_environment("worker"),  # which it gives to its workers
        )


async def _at_once(pid: int) -> bool:
    return True


def _answers(url: str) -> Callable[[int], Awaitable[bool]]:
    async def ready(pid: int) -> bool:
        status, _ = await get(url)
        return status == 200

    return ready


def _uvicorn(name: str, port: int, environment: dict[str, str]) -> Service:
    address = ["--host", "127.0.0.1", "--port", str(port)]
    options = ["--no-access-log", "--log-level", "warning", "--timeout-graceful-shutdown", "3"]
    return Service(
        name,
        [sys.executable, "-m", "uvicorn", f"services.{name}.main:app", *address, *options],
        _answers(f"http://127.0.0.1:{port}/readyz"),
        environment=environment,
    )


def _first_line(errors: BaseExceptionGroup[Exception]) -> str:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = str(error)
    return f"the disk is full: {text}" if "No space left" in text else text
