"""The logs of a local stack stay small while their writers go on."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import logs
from deploy.local.logs import shorten

WRITER = "import sys\nfor line in sys.stdin:\n    print(line, end='', flush=True)"


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process whose log is open as the supervisor opens it."""
    with (tmp_path / "api.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=log, text=True)
    yield process
    process.communicate()


def write(process: subprocess.Popen[str], line: str, log: Path) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    while not log.read_text().endswith(f"{line}\n"):
        pass


def test_a_log_that_grows_is_moved_and_its_writer_goes_on_at_its_start(
    writer: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES_MAX", 10)
    log = tmp_path / "api.log"
    write(writer, "short", log)
    shorten(tmp_path)
    assert log.read_text() == "short\n"
    write(writer, "longer than ten", log)
    shorten(tmp_path)
    assert (log.read_text(), (tmp_path / "api.log.1").read_text()) == ("", "short\nlonger than ten\n")
    write(writer, "next", log)
    assert log.read_bytes() == b"next\n"  # and no hole before it
    write(writer, "again too long", log)
    shorten(tmp_path)
    assert (tmp_path / "api.log.1").read_text() == "next\nagain too long\n"
    assert {path.name for path in tmp_path.iterdir()} == {"api.log", "api.log.1"}


def test_logs_of_workers_that_are_long_gone_are_removed(tmp_path: Path) -> None:
    for name, days in (("worker-i-1.log", 8), ("worker-i-1.log.1", 8), ("worker-i-2.log", 1), ("api.log", 8)):
        (tmp_path / name).write_text("line\n")
        os.utime(tmp_path / name, (time.time() - days * 86_400,) * 2)
    shorten(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"worker-i-2.log", "api.log"}
