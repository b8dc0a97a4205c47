"""Private working directories on the node's disk; those of crashed workers are removed."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any


class ScratchUnusable(Exception):
    """The scratch directory can't be made or written to; the message names it and the setting."""


@contextmanager
def scratch_directory(root: Path) -> Iterator[Path]:
    """This process's own directory below `root`, removed at the end; directories of dead processes are removed first.

    Each is held with a file lock, which ends with its process. Unlike a process id, a lock tells live processes from
    dead ones even after a reboot and across containers. Raises ScratchUnusable.
    """
    with ExitStack() as stack:
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(root / "lock"):  # nobody may look between the creation of a directory and its lock
                _remove_leftovers(root)
                directory = Path(tempfile.mkdtemp(prefix="", dir=root))  # short: sockets in it have 108 bytes
                stack.enter_context(_locked(directory / "lock"))
        except OSError as error:
            raise ScratchUnusable(f"can't use the directory in PIECEWORK_SCRATCH: {error}") from None
        stack.callback(remove_tree, directory)  # before the lock is given up
        yield directory


def remove_tree(directory: Path) -> None:
    """Remove a directory with all its content, even where a task removed its own permissions. Ignores failures."""
    shutil.rmtree(directory, onerror=_retry_permitted)


def _retry_permitted(function: Callable[..., Any], path: str, _: object) -> None:
    with suppress(OSError):
        Path(path).parent.chmod(0o700)
        Path(path).chmod(0o700)
        shutil.rmtree(path) if function is not os.unlink else function(path)


def _remove_leftovers(root: Path) -> None:
    for directory in filter(Path.is_dir, root.iterdir()):
        with suppress(BlockingIOError), _locked(directory / "lock", fcntl.LOCK_NB):
            remove_tree(directory)


@contextmanager
def _locked(path: Path, flags: int = 0) -> Iterator[None]:
    """Hold the lock on a file. With LOCK_NB, raises BlockingIOError if another process has it."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | flags)
        yield
