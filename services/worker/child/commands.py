"""Users' programs: started without a shell; every process that they leave behind is killed."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from services.contract.task_error import TaskError
from services.worker.child import linux
from services.worker.child.last_words import last_words

_SHELL_CODES = {126: "a program could not be executed", 127: "a program was not found"}


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
    """Raises TaskError (exit_code or crash) unless the program ended with 0; its last words say more."""
    if code == 0:
        return
    type, reason = ("exit_code", _explain(code)) if code > 0 else ("crash", killed_by(-code))
    words = last_words(log)
    raise TaskError(type, f"{reason}: {words}" if words else reason, exit_code=code if code > 0 else 128 - code)


def killed_by(number: int) -> str:
    """`killed by signal 9 (SIGKILL); the node may be short of memory`."""
    hint = "; the node may be short of memory" if number == signal.SIGKILL else ""
    try:
        return f"killed by signal {number} ({signal.Signals(number).name}){hint}"
    except ValueError:
        return f"killed by signal {number}"


def _explain(code: int) -> str:
    """`exit code 139: killed by signal 11 (SIGSEGV)`: shells tell so what has happened to the programs they started."""
    if code in _SHELL_CODES:
        return f"exit code {code}: {_SHELL_CODES[code]}"
    if code - 128 in set(signal.Signals):
        return f"exit code {code}: {killed_by(code - 128)}"
    return f"exit code {code}"
