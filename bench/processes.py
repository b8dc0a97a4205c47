"""Processes of a benchmark: each with a log file, ended with the benchmark however that ends."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil

from deploy.local.process import ROOT, die_with_parent, last_lines, stop_processes

_START_SECONDS = 60.0


class Failed(RuntimeError):
    """What was to be measured did not happen; the message says why."""


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] = os.environ,
    stop_signal: int = signal.SIGTERM,
    **options: Any,
) -> psutil.Popen:
    """Start a command, its output appended to the log; the kernel sends it the stop signal when this process dies."""
    with log.open("ab") as output:
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
        return psutil.Popen(
            list(command),
            env=dict(environment),
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=die_with_parent(stop_signal),
            **(pipes | options),
        )


def await_ready(what: str, process: psutil.Popen, log: Path, ready: Callable[[], bool]) -> None:
    """Wait until it is; raises Failed with the log's last lines if it ends first."""
    deadline = monotonic() + _START_SECONDS
    while not ready():
        if process.poll() is not None or monotonic() > deadline:
            raise Failed(f"{what} did not start: {last_lines(log)}")
        sleep(0.02)


def stop_tree(processes: Iterable[psutil.Process], signal_number: int = signal.SIGTERM) -> None:
    """End the processes in good order, then whatever they leave behind."""
    running = [process for process in processes if process.is_running()]
    descendants = [child for process in running for child in process.children(recursive=True)]
    stop_processes(running, signal_number, 20)
    stop_processes([child for child in descendants if child.is_running()], signal.SIGKILL, 10)
