"""Services as forks of a process that has imported them all (a fork server).

They begin within a twentieth of a second. A start of Python and the imports take 1.5 to 2.5 s of a processor, more than
most jobs of the tests.
"""

import asyncio
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from services.worker.child.linux import die_with_parent
from tests.until import until

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload([__name__, "tests.warm"])


class Fork:
    """Runs a module as `python -m MODULE ARGUMENTS` would; has what tests use of subprocess.Popen."""

    def __init__(self, module: str, *arguments: str, env: Mapping[str, str], log: Path) -> None:
        self.args = [module, *arguments]
        self.log = log
        self.returncode: int | None = None  # as of the last `poll` or `wait`
        self._process = forks.Process(target=_run, args=(self.args, dict(env), log), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        self.returncode = self._process.exitcode
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    async def ended(self) -> int:
        """Wait for its end, as `wait` would."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._process.sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._process.sentinel)
        return self.wait()

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text() if self.log.exists() else ""

    @property
    def lines(self) -> list[str]:
        """Those that it has printed as a whole."""
        return self.output.rpartition("\n")[0].splitlines()

    async def prints(self, number: int) -> str:
        """Wait for the line of this number, from 0."""
        [line] = await until(lambda: self.lines[number : number + 1])
        return str(line)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = subprocess.Popen[bytes] | Fork


def begin(arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
    """What a fork does first: it is a process with these arguments and environment, and prints to the log."""
    die_with_parent()  # the fork server, and that with the test
    os.environ.clear()
    os.environ.update(environment)
    with log.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.argv[:] = arguments


def _run(arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
    begin(arguments, environment, log)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
