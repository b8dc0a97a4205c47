"""Child processes that do not outlive the process that watches over them."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from services.worker.child import linux

ROOT = Path(__file__).parents[2]  # of the repository: where `python -m services…` finds its modules
STACK_VARIABLE = "PIECEWORK_STACK"  # the state directory, carried by all of a stack's processes: so strays are found


def die_with_parent(signal_number: int = signal.SIGKILL) -> Callable[[], None] | None:
    """A `preexec_fn` that has the kernel send the signal when the parent dies, however it dies; None if not Linux.

    The kernel counts the end of the thread that started the child as death: start children from the main thread.
    """
    if sys.platform != "linux":
        return None
    parent = os.getpid()

    def prepare_child() -> None:
        linux.die_with_parent(signal_number)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)

    return prepare_child


async def spawn(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    parent_death_signal: int = signal.SIGKILL,
    **options: Any,
) -> Process:
    """Start a command in a session of its own, its output appended to the log. Call from the main thread only."""
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            cwd=ROOT,
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(parent_death_signal),
            **options,
        )


async def stop(process: Process, signal_number: int, grace_seconds: float) -> None:
    """Signal the process, wait, and kill it if it is still there after the grace."""
    if process.returncode is not None:
        return
    process.send_signal(signal_number)
    try:
        await asyncio.wait_for(process.wait(), grace_seconds)
    except TimeoutError:
        process.kill()
        await process.wait()


def find_strays(state: Path) -> list[psutil.Process]:
    """Living processes of the stack of this state directory, this process aside."""
    strays = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(STACK_VARIABLE) == str(state):
                strays.append(process)
        except psutil.Error:  # gone, or another user's
            continue
    return strays


def stop_processes(processes: Iterable[psutil.Process], signal_number: int, grace_seconds: float) -> None:
    """Signal all, wait for them together, and kill those that are still there after the grace."""
    processes = list(processes)
    for process in processes:
        try:
            process.send_signal(signal_number)
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(processes, grace_seconds)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, 10)


def last_lines(log: Path, count: int = 3) -> str:
    """The end of a log on one line, for an error message."""
    if not log.exists():
        return "no output"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return " | ".join(line.strip() for line in lines[-count:]) or "no output"
