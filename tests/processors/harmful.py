"""Processors that harm the node they run on; nothing of Piecework is imported."""

import ctypes
import os
import signal
from pathlib import Path


def kill_worker(input: Path, output: Path, index: int) -> None:
    """Task `index` kills the process that has started it: the worker."""
    if int(os.environ["PIECEWORK_TASK_INDEX"]) == index:
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()  # until the kernel ends it with its parent


def segfault(input: Path, output: Path, index: int) -> None:
    if int(os.environ["PIECEWORK_TASK_INDEX"]) == index:
        ctypes.string_at(0)


def hoard(input: Path, output: Path, index: int) -> None:
    """Task `index` takes memory without end."""
    hoarded = []
    while int(os.environ["PIECEWORK_TASK_INDEX"]) == index:
        hoarded.append(bytearray(1 << 20))


def fill_disk(input: Path, output: Path, index: int) -> None:
    """Task `index` writes without end."""
    with output.open("wb") as file:
        while int(os.environ["PIECEWORK_TASK_INDEX"]) == index:
            file.write(bytes(1 << 16))


def fail(input: Path, output: Path) -> None:
    raise ValueError("always")
