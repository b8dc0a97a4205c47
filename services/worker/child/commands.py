"""Users' programs: started without a shell; every process that they leave behind is killed."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from services.contract.task_error import TaskError
from services.worker.child import linux

_TAIL_BYTES = 4096


def run_command(arguments: Sequence[str]) -> tuple[int, int]:
    """Run a program to its end; returns its exit code (negative: the signal that killed it) and its peak memory.

    It inherits the working directory, the environment and the log, and leads its own process group. Processes that it
    leaves behind are killed. Raises TaskError (processor_load), retryable: another node may have the program.
    """
    try:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=linux.die_with_parent
        )
    except (OSError, ValueError) as error:
        raise TaskError("processor_load", f"can't run {arguments[0]!r}: {error}") from None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # wait4 has reaped the process that Popen would wait for
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    linux.kill_descendants()
    return process.returncode, linux.memory_bytes_of(usage)


def check_exit(code: int, log: Path) -> None:
    """Raises TaskError (exit_code or crash) unless the program ended with 0; the last line of its log says more."""
    if code > 0:
        last = _last_line(log)
        raise TaskError("exit_code", f"exit code {code}: {last}" if last else f"exit code {code}", exit_code=code)
    if code < 0:
        raise TaskError("crash", f"killed by {name_signal(-code)}", exit_code=128 - code)


def name_signal(number: int) -> str:
    """`signal 11 (SIGSEGV)`."""
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").split("\n")
        return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "")
    return ""
