"""Whether a directory is empty, asked after every task: mostly nothing has been made in it, which its time tells."""

import contextlib
import os
import time

_SETTLED_NS = 1_000_000_000  # much more than a tick of the clock by which changes are stamped


class Emptiness:
    """Of the directory of this path.

    A change of its entries sets its ctime, which nobody can set back (https://man7.org/linux/man-pages/man7/inode.7.html).
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._empty: tuple[int, int, int] | None = None  # how it looks as long as nothing changes

    def holds_anything(self) -> bool:
        """Whether anything is in it; also if it is not there any more."""
        with contextlib.suppress(OSError):
            found = os.stat(self._path, follow_symlinks=False)  # noqa: PTH116  # quicker
            look = found.st_dev, found.st_ino, found.st_ctime_ns
            if look == self._empty:
                return False
            if os.listdir(self._path):  # noqa: PTH208  # quicker
                return True
            if time.time_ns() - found.st_ctime_ns > _SETTLED_NS:
                self._empty = look
            return False
        return True
