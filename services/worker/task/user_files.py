"""Files that user code made, opened and removed with the worker's rights: whatever they have become meanwhile.

A task may replace its output or its log by a symbolic link, a named pipe or a device, and rename directories while they
are read. So nothing here trusts a path. Everything is opened below a directory's descriptor, name by name, without
following links (O_NOFOLLOW, open(2)) and without waiting (O_NONBLOCK), and used only if the descriptor is that of a
regular file with no other name (fstat(2)). Who reads the file goes on with that descriptor.

These calls may block on a file system that does not answer: await them with `beside_loop` (platform/threads).
"""

import errno
import os
import stat
from collections.abc import Iterator
from io import FileIO, RawIOBase
from pathlib import Path, PurePosixPath

from services.contract.task_error import TaskError

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_NAME_BYTES_MAX = 1024  # of a file below the directory: S3 allows no longer keys

_OF_NODE = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE})  # no task is at fault

_KINDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class UserFiles:
    """The files below a directory, which is held by its descriptor: it may be renamed while it is in use.

    Paths that are given begin with the directory's name at the start. Each method raises TaskError (output_invalid),
    not retryable, for what is not a regular file or a directory, and if the task took the rights to it. An OSError is
    the node's fault.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor = os.open(directory, DIRECTORY)

    def fileno(self) -> int:
        """The directory's descriptor."""
        return self._descriptor

    def close(self) -> None:
        os.close(self._descriptor)

    def open(self, path: Path, *, write: bool = False) -> FileIO | None:
        """A regular file with no other name, to be read, or else changed in place; None if nothing has its name."""
        name = self._name(path)
        place = self._enter(name.parent)
        if place is None:
            return None
        try:
            return _open(name, place, write)
        finally:
            os.close(place)

    def remove(self, path: Path) -> None:
        """Remove a name that is not a directory's. Raises OSError."""
        name = self._name(path)
        place = self._enter(name.parent)
        if place is None:
            return
        try:
            os.unlink(name.name, dir_fd=place)
        finally:
            os.close(place)

    def has_file(self, path: Path) -> bool:
        """Whether `open` would open it."""
        file = self.open(path)
        if file is not None:
            file.close()
        return file is not None

    def find(self, directory: Path) -> Iterator[Path]:
        """All that is below the directory but directories, at any depth, in no order, and nothing if it is missing.

        Goes into no directory whose name is too long for S3.
        """
        waiting = [self._name(directory)]
        while waiting:
            at = waiting.pop()
            place = self._enter(at)
            if place is None:
                continue
            try:
                with os.scandir(place) as entries:
                    for entry in entries:
                        name = at / entry.name
                        if not entry.is_dir(follow_symlinks=False):
                            yield self._directory / name
                        elif len(os.fsencode(name)) <= _NAME_BYTES_MAX:
                            waiting.append(name)
            finally:
                os.close(place)

    def _name(self, path: Path) -> PurePosixPath:
        name = PurePosixPath(path.relative_to(self._directory))
        if ".." in name.parts:
            raise ValueError(f"{path} leads out of its directory")
        return name

    def _enter(self, name: PurePosixPath) -> int | None:
        """A descriptor of a directory; None if it is missing."""
        place, at = os.open(".", DIRECTORY, dir_fd=self._descriptor), PurePosixPath()
        for part in name.parts:
            at /= part
            try:
                inner = os.open(part, DIRECTORY, dir_fd=place)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise _refusal(at, place, "directory", error) from None
            finally:
                os.close(place)
            place = inner
        return place


class Reading(RawIOBase):
    """An open file read from its beginning by a thread, at a position of its own. Once it is closed, reads fail."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}
        self._position = offset + (begin[whence] if whence in begin else os.fstat(self._file.fileno()).st_size)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = os.preadv(self._file.fileno(), [buffer], self._position)
        self._position += size
        return size


def _open(name: PurePosixPath, place: int, write: bool) -> FileIO | None:
    try:
        found = os.stat(name.name, dir_fd=place, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):  # not even opened: that has effects on devices
            raise _is_not(name, "regular file", found)
        descriptor = os.open(name.name, _FILE | (os.O_RDWR if write else os.O_RDONLY), dir_fd=place)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refusal(name, place, "regular file", error) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _is_not(name, "regular file", found)
        if found.st_nlink > 1:
            raise _invalid(name, f"is a file with {found.st_nlink} names (hard links): write a copy")
        return FileIO(descriptor, "r+" if write else "r")
    except BaseException:
        os.close(descriptor)
        raise


def _refusal(name: PurePosixPath, place: int, wanted: str, error: OSError) -> TaskError | OSError:
    """Why a name can't be opened: most often, because it is something else than what is wanted."""
    if error.errno in _OF_NODE:
        return error
    try:
        found = os.stat(name.name, dir_fd=place, follow_symlinks=False)
    except OSError:
        return _invalid(name, f"can't be opened: {error.strerror}")
    if _KINDS.get(stat.S_IFMT(found.st_mode)) == f"a {wanted}":
        return _invalid(name, f"can't be opened: {error.strerror}")
    return _is_not(name, wanted, found)


def _is_not(name: PurePosixPath, wanted: str, found: os.stat_result) -> TaskError:
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
    return _invalid(name, f"is not a {wanted}: it is {kind}")


def _invalid(name: PurePosixPath, what: str) -> TaskError:
    below = PurePosixPath(*name.parts[1:]) if len(name.parts) > 1 else name
    shown = os.fsencode(below).decode(errors="backslashreplace")
    return TaskError("output_invalid", f"the output {shown!r} {what}", retryable=False)
