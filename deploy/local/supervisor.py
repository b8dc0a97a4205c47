"""Supervised processes: started, awaited, restarted when they end by themselves, and stopped."""

import asyncio
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.local.process import last_lines, spawn, stop
from deploy.local.progress import say

_BACKOFF_SECONDS = 0.5
_BACKOFF_SECONDS_MAX = 30.0
_STEADY_SECONDS = 60.0  # a process that ran this long was well: its next restart is a quick one again


class StackError(RuntimeError):
    """The stack cannot run; the message is one line that a user can act on."""


@dataclass(frozen=True, slots=True)
class Service:
    """What to run, and how to see that it is ready."""

    name: str
    command: Sequence[str]
    ready: Callable[[int], Awaitable[bool]]  # asked with the process id until it is true
    stop_signal: int = signal.SIGTERM
    stop_seconds: float = 10.0
    environment: Mapping[str, str] = field(default_factory=dict)  # beside the supervisor's
    options: Mapping[str, Any] = field(default_factory=dict)  # of subprocess.Popen
    prepare: Callable[[], None] | None = None  # blocking, before each start
    restarted: Callable[[], Awaitable[None]] | None = None  # once it is ready again after a crash


class Supervisor:
    """Keeps services running between `start` and `stop`."""

    def __init__(self, environment: Mapping[str, str], logs: Path, changed: Callable[[], None]) -> None:
        self.processes: dict[str, Process] = {}
        self._environment = environment
        self._logs = logs
        self._changed = changed  # called when `processes` has changed
        self._services: dict[str, Service] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}

    async def start(self, service: Service, timeout_seconds: float = 60.0) -> None:
        """Start a service and wait until it is ready; raises StackError with its last words if it ends before."""
        self._services[service.name] = service
        await self._launch(service, timeout_seconds)
        self._watchers[service.name] = asyncio.create_task(self._watch(service))

    async def run_once(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run a command to its end; raises StackError with its last words if it fails."""
        log = self._logs / f"{name}.log"
        process = await spawn(
            command,
            log=log,
            environment={**self._environment, **environment},
            parent_death_signal=signal.SIGTERM,
        )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await stop(process, signal.SIGTERM, 2)
            raise
        if code != 0:
            raise StackError(f"{name} failed: {last_lines(log, 1)} (all of it: {log})")

    async def stop(self, name: str) -> None:
        if watcher := self._watchers.pop(name, None):
            watcher.cancel()
            await asyncio.wait([watcher])
        if process := self.processes.get(name):
            service = self._services[name]
            await stop(process, service.stop_signal, service.stop_seconds)
            del self.processes[name]
            self._changed()

    async def _launch(self, service: Service, timeout_seconds: float = 60.0) -> None:
        if service.prepare:
            await asyncio.to_thread(service.prepare)
        log = self._logs / f"{service.name}.log"
        process = self.processes[service.name] = await spawn(
            service.command,
            log=log,
            environment={**self._environment, **service.environment},
            parent_death_signal=service.stop_signal,
            **service.options,
        )
        self._changed()
        deadline = time.monotonic() + timeout_seconds
        while not await service.ready(process.pid):
            if process.returncode is not None:
                raise StackError(f"{service.name} did not start: {last_lines(log)} (all of it: {log})")
            if time.monotonic() > deadline:
                raise StackError(f"{service.name} was not ready in {timeout_seconds:.0f} s: {last_lines(log)} ({log})")
            await asyncio.sleep(0.05)

    async def _watch(self, service: Service) -> None:
        """Start the service again whenever it ends, until cancelled."""
        backoff = _BACKOFF_SECONDS
        while True:
            started = time.monotonic()
            code = await self.processes[service.name].wait()
            if time.monotonic() - started > _STEADY_SECONDS:
                backoff = _BACKOFF_SECONDS
            while True:
                say(f"{service.name} ended with exit code {code}: starting it again in {backoff:g} s")
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, _BACKOFF_SECONDS_MAX)
                try:
                    await self._launch(service)
                    if service.restarted:
                        await service.restarted()
                    break
                except (StackError, OSError) as error:
                    say(f"{service.name}: {error}")
                    process = self.processes[service.name]
                    await stop(process, service.stop_signal, service.stop_seconds)
                    code = process.returncode or 0
