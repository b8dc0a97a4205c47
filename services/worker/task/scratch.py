"""Private working directories on the node's disk; those of crashed workers are removed."""

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from services.worker.task.user_files import DIRECTORY

_REMOVE_SECONDS = 1800.0  # limit, in case a process goes on making files


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
    """Remove a directory with all its content, even where a task removed its own permissions.

    Follows no link, and takes the same memory for any depth and number of files. Ignores failures.
    """
    with suppress(OSError):
        parent = os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            inside = _enter(directory.name, parent)
            try:
                empty_directory(inside)
            finally:
                os.close(inside)
            os.rmdir(directory.name, dir_fd=parent)
        except OSError:  # it may not be a directory, but a file or a link
            os.unlink(directory.name, dir_fd=parent)
        finally:
            os.close(parent)


def empty_directory(descriptor: int) -> None:
    """Remove all that is in the directory, wherever that is by now. Like `remove_tree`, ignores failures.

    Directories inside others are first moved up: so no depth needs more than two open directories.
    """
    names, give_up_at = (f"{token_hex(8)}-{number}" for number in count()), time.monotonic() + _REMOVE_SECONDS
    removed = True
    with suppress(OSError):  # another's
        os.fchmod(descriptor, 0o700)
    while removed and time.monotonic() < give_up_at:
        removed = False
        with os.scandir(descriptor) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        removed |= _move_up(entry.name, descriptor, names)
                        os.rmdir(entry.name, dir_fd=descriptor)
                    else:
                        os.unlink(entry.name, dir_fd=descriptor)
                    removed = True


def _move_up(name: str, parent: int, names: Iterator[str]) -> bool:
    """Move the directories in a directory up to its parent, and remove everything else in it; True if any moved."""
    inside, moved = _enter(name, parent), False
    try:
        with os.scandir(inside) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        _permit(entry.name, inside)  # its own `..` changes
                        os.rename(entry.name, next(names), src_dir_fd=inside, dst_dir_fd=parent)
                        moved = True
                    else:
                        os.unlink(entry.name, dir_fd=inside)
    finally:
        os.close(inside)
    return moved


def _enter(name: str, parent: int) -> int:
    """A descriptor of a directory, which we may list and change from then on."""
    try:
        inside = os.open(name, DIRECTORY, dir_fd=parent)
    except PermissionError:
        _permit(name, parent)
        inside = os.open(name, DIRECTORY, dir_fd=parent)
    with suppress(OSError):  # another's
        os.fchmod(inside, 0o700)
    return inside


def _permit(name: str, parent: int) -> None:
    """Give us all rights to a directory that can't be opened, if it is ours; to nothing that a link points to."""
    with suppress(OSError):
        if os.chmod in os.supports_follow_symlinks:
            os.chmod(name, 0o700, dir_fd=parent, follow_symlinks=False)
            return
        found = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            Path(f"/proc/self/fd/{found}").chmod(0o700)  # the directory that is open, whatever its name is now
        finally:
            os.close(found)


def open_lock(path: Path) -> BinaryIO:
    """A file to be locked with flock(2); made if there is none, or if a task has put something else there.

    Raises OSError.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            remove_tree(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)


def _remove_leftovers(root: Path) -> None:
    with os.scandir(root) as entries:
        found = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    for directory in found:
        with suppress(BlockingIOError), _locked(directory / "lock", fcntl.LOCK_NB):
            remove_tree(directory)


@contextmanager
def _locked(path: Path, flags: int = 0) -> Iterator[None]:
    """Hold the lock on a file. With LOCK_NB, raises BlockingIOError if another process has it."""
    with open_lock(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX | flags)
        yield
