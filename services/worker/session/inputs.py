"""The inputs of a session's tasks: small files, made or fetched ahead, and sent with the tasks.

So none lies on the disk before its own task runs: no other task can see it there.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from services.contract.source import TaskSource
from services.contract.task_input import WholeObject
from services.engine.attempt import ClaimedTask
from services.inputs.fetched import FetchedInput
from services.worker.child.job import FILE_BYTES_MAX, SessionInput
from services.worker.session.depth import MOVED_AT_ONCE
from services.worker.session.source import Held
from services.worker.task.environment import source_variables
from services.worker.task.inputs import download_object, encode_value, fetch_input, object_as_input
from services.worker.task.scratch import remove_tree

log = structlog.get_logger()

_BYTES_MAX = 4 << 20  # fetched and not yet used
_SECONDS_MAX = 2.0  # whatever takes longer is fetched by an attempt of its own, which needs no slot meanwhile


class _NotSmall(Exception):
    """The job's manifest said that it was."""


class _SmallFile(BytesIO):
    """Takes no more than what is sent with a task. Raises _NotSmall."""

    def write(self, data: Any, /) -> int:
        if self.tell() + len(data) > FILE_BYTES_MAX:
            raise _NotSmall
        return super().write(data)


class Ready(NamedTuple):
    """What a task gets: the file's bytes, and what fetching it took."""

    fetched: FetchedInput
    body: bytes
    seconds: float = 0.0

    def sent(self, source: TaskSource | None) -> SessionInput:
        """What the child is told of it."""
        variables = {name: str(value) for name, value in (source_variables(source) if source else {}).items()}
        name, checks = self.fetched.path.name, self.fetched.checks
        return {"name": name, "bytes": len(self.body), "checks": checks, "variables": variables}


def made_here(task: ClaimedTask) -> Ready | None:
    """The input of a task that has it in its row; None if it is to be fetched."""
    if (body := encode_value(task)) is None:
        return None
    return Ready(FetchedInput(Path("input.json"), len(body)), body)


class Fetches:
    """Fetches the inputs of tasks, some at once, and no more than fit into memory until they are `used`.

    `ready` gets what has been fetched. `failed` gets a task whose input can't be had soon, whatever the reason: the
    attempt that it then has by itself finds that out again, and says so.
    """

    def __init__(
        self,
        s3: Any,
        directory: Path,
        ready: Callable[[Sequence[tuple[Held, Ready]]], None],
        failed: Callable[[Held], None],
    ) -> None:
        self._s3 = s3
        self._directory = directory
        self._ready = ready
        self._failed = failed
        self._waiting: deque[Held] = deque()
        self._running: dict[asyncio.Task[Ready], Held] = {}
        self._fetched: list[tuple[Held, Ready]] = []
        self._bytes = 0  # that are fetched, or will be, and were not used
        self._names = count()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running) + len(self._fetched)

    @property
    def held(self) -> list[Held]:
        """The tasks that wait for their inputs."""
        return [*(held for held, _ in self._fetched), *self._running.values(), *self._waiting]

    def add(self, held: Sequence[Held]) -> None:
        self._waiting.extend(held)
        self._go_on()

    def used(self, ready: Ready) -> None:
        """It is not kept any more."""
        if ready.seconds:
            self._bytes -= len(ready.body)
            self._go_on()

    def withdraw(self) -> list[Held]:
        """Fetch nothing more. Returns the tasks that waited for their inputs."""
        held = self.held
        for running in self._running:
            running.cancel()
        self._bytes -= sum(len(ready.body) for _, ready in self._fetched)
        self._waiting.clear()
        self._running.clear()
        self._fetched.clear()
        return held

    def _go_on(self) -> None:
        while self._waiting and len(self._running) < MOVED_AT_ONCE and self._bytes < _BYTES_MAX:
            held = self._waiting.popleft()
            expected = held.task.input.bytes or 0
            self._bytes += expected
            running = asyncio.get_running_loop().create_task(self._fetch(held.task))
            self._running[running] = held
            running.add_done_callback(partial(self._ended, expected))

    def _ended(self, expected: int, running: asyncio.Task[Ready]) -> None:
        self._bytes -= expected
        held = self._running.pop(running, None)  # None: it was withdrawn
        error = None if running.cancelled() else running.exception()
        if held is None:
            return
        if running.cancelled() or error is not None:
            log.debug("input not fetched ahead", index=held.task.index, error=repr(error))
            self._failed(held)
        else:
            ready = running.result()
            self._bytes += len(ready.body)
            if not self._fetched:
                asyncio.get_running_loop().call_soon(self._hand_over)  # with what else has come by then
            self._fetched.append((held, ready))
        self._go_on()

    def _hand_over(self) -> None:
        fetched, self._fetched = self._fetched, []
        if fetched:
            self._ready(fetched)

    async def _fetch(self, task: ClaimedTask) -> Ready:
        """Raises TaskError, OSError and TimeoutError."""
        began = time.monotonic()
        async with asyncio.timeout(_SECONDS_MAX):
            if isinstance(task.input, WholeObject):
                file = _SmallFile()
                fetched = object_as_input(task.input, Path(), await download_object(self._s3, task.input, file))
                body = file.getvalue()
            else:
                fetched, body = await self._fetch_part(task)
        if len(body) > FILE_BYTES_MAX:
            raise _NotSmall
        return Ready(fetched, body, time.monotonic() - began)

    async def _fetch_part(self, task: ClaimedTask) -> tuple[FetchedInput, bytes]:
        """By the module of its format, which makes a file."""
        directory = self._directory.with_name(f"{self._directory.name}-{next(self._names)}")
        directory.mkdir(mode=0o700)
        try:
            fetched = await fetch_input(self._s3, task, directory)
            return fetched, fetched.path.read_bytes()
        finally:
            remove_tree(directory)
