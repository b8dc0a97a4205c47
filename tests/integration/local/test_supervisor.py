"""Supervised processes come back when they end by themselves, and end when they are told to."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from deploy.local.supervisor import Service, StackError, Supervisor
from tests.until import until


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(dict(os.environ), tmp_path, changed=lambda: None)
    yield supervisor
    for name in list(supervisor.processes):
        await supervisor.stop(name)


def wrote(file: Path) -> Callable[[int], Awaitable[bool]]:
    def says(pid: int) -> bool:
        return file.exists() and file.read_text() == str(pid)

    async def ready(pid: int) -> bool:
        return says(pid)

    return ready


def python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


SLEEPER = """
import os, pathlib, signal, sys
if sys.argv[2:] == ["stubborn"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
ready = pathlib.Path(sys.argv[1])
ready.with_suffix(".new").write_text(str(os.getpid()))
ready.with_suffix(".new").rename(ready)
while True:
    signal.pause()
"""


async def test_a_service_that_was_killed_comes_back(supervisor: Supervisor, tmp_path: Path) -> None:
    file, returned = tmp_path / "ready", []

    async def restarted() -> None:
        returned.append(file.read_text())

    await supervisor.start(Service("sleeper", python(SLEEPER, file), wrote(file), restarted=restarted))
    first = supervisor.processes["sleeper"].pid
    os.kill(first, signal.SIGKILL)

    await until(lambda: returned)
    assert supervisor.processes["sleeper"].pid != first


async def test_a_service_that_ends_at_its_start_is_reported_with_its_last_words(supervisor: Supervisor) -> None:
    async def never(pid: int) -> bool:
        return False

    program = "import sys; sys.exit('no space left on the moon')"
    with pytest.raises(StackError, match="moon did not start: no space left on the moon"):
        await supervisor.start(Service("moon", python(program), never))


async def test_a_service_that_ignores_its_stop_is_killed(supervisor: Supervisor, tmp_path: Path) -> None:
    file = tmp_path / "ready"
    await supervisor.start(Service("stubborn", python(SLEEPER, file, "stubborn"), wrote(file), stop_seconds=0.1))
    pid = supervisor.processes["stubborn"].pid

    await supervisor.stop("stubborn")

    assert not psutil.pid_exists(pid)
    assert supervisor.processes == {}
