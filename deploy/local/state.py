"""Who holds a state directory, and what a holder that was killed has left running."""

import fcntl
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deploy.local.process import find_strays, stop_processes
from deploy.local.settings import StackSettings


class AlreadyRunning(Exception):
    """Another process supervises this state directory."""


@contextmanager
def lock(settings: StackSettings) -> Iterator[None]:
    """Hold the state directory; the kernel releases it however this process ends. Raises AlreadyRunning."""
    settings.state.mkdir(parents=True, exist_ok=True)
    with (settings.state / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunning from error
        yield


def is_running(settings: StackSettings) -> bool:
    try:
        with lock(settings):
            return False
    except AlreadyRunning:
        return True


def read_record(settings: StackSettings) -> dict[str, Any] | None:
    """What the supervisor wrote about itself: {"pid", "processes": {name: pid}, "urls"}; None after a clean stop."""
    try:
        record: dict[str, Any] = json.loads((settings.state / "stack.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return record


def clear_crash(settings: StackSettings) -> int:
    """Stop what a killed supervisor left running; returns the number of processes. Call with the lock held."""
    record = settings.state / "stack.json"
    if not record.exists():
        return 0
    strays = find_strays(settings.state)
    servers = [stray for stray in strays if stray.name() == "postgres"]
    stop_processes([stray for stray in strays if stray not in servers], signal.SIGTERM, 10)
    stop_processes(servers, signal.SIGINT, 30)
    record.unlink()
    return len(strays)
