"""The release before, as it was published: its own code, run by this environment's Python beside today's."""

import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from services.platform.settings import Settings
from tests.forks import Fork, Process

ROOT = Path(__file__).parents[2]

# Each release moves it to the one that it comes after: services of that one must work beside its own.
BASE_RELEASE = "26aed17408cca54dc5a1072bd059e68989d12211"
BASE_MIGRATE = "services.common.migrate"


def extract_base_release(directory: Path) -> Path:
    """Its files. A clone without the commit fails the test; without any history, as in an archive, it is skipped."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a clone: the release before can't be taken from its history")
    archive = subprocess.run(
        ["git", "archive", "--format=tar", BASE_RELEASE, "services", "client"], cwd=ROOT, capture_output=True
    )
    if archive.returncode != 0:
        pytest.fail(
            f"the release before is not in this clone (a shallow one? git fetch --unshallow): {archive.stderr!r}"
        )
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(directory, filter="data")
    return directory


class Fleet:
    """The services of one release as processes; their logs are files in `directory`."""

    def __init__(self, code: Path, settings: Settings, directory: Path, **extra: Any) -> None:
        directory.mkdir()
        self._code = code
        self._directory = directory
        values = settings.model_dump(exclude_none=True) | extra
        values |= {"scratch": directory / "scratch", "cache": directory / "cache"}
        self._environment = os.environ | {f"PIECEWORK_{name.upper()}": str(value) for name, value in values.items()}
        self._running: dict[str, Process] = {}

    def run(self, module: str) -> None:
        """Run a module to its end."""
        subprocess.run([sys.executable, "-m", module], cwd=self._code, env=self._environment, check=True, timeout=60)

    def start(self, name: str, *arguments: str) -> None:
        """Start `python -m <arguments>`."""
        log = self._directory / f"{name}.log"
        if self._code == ROOT:
            self._running[name] = Fork(*arguments, env=self._environment, log=log)
            return
        with log.open("wb") as file:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=self._code,
                env=self._environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def start_api(self, port: int) -> None:
        self.start("api", "uvicorn", "services.api.main:app", "--port", str(port), "--no-access-log")

    def start_scheduler(self) -> None:
        self.start("scheduler", "services.scheduler")

    def start_worker(self) -> None:
        self.start("worker", "services.worker")

    def tell_to_stop(self, name: str) -> None:
        self._running[name].terminate()

    def await_end(self, name: str) -> None:
        """Wait for the end of one that was told to stop, in good order."""
        assert self._running.pop(name).wait(120) == 0, self.log(name)

    def log(self, name: str) -> str:
        return (self._directory / f"{name}.log").read_text()

    def stop(self) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
