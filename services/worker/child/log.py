"""Standard output and error, also of C code and child processes, go to a file: one of each job, or of each session."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from services.worker.child import linux


@contextlib.contextmanager
def logging_to(path: str) -> Iterator["Log"]:
    """Redirect both to the file; afterwards, to nowhere."""
    log = Log(path)
    try:
        yield log
    finally:
        log.flush()
        log.close()


class Log:
    """The file, held by a descriptor of our own: user code may turn the standard ones elsewhere, or close them."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._identity = _identity(self._file)
        self._redirect()

    @property
    def descriptor(self) -> int:
        return self._file

    def _redirect(self) -> None:
        os.dup2(self._file, 1)
        os.dup2(self._file, 2)
        self._renew()

    def _renew(self) -> None:
        """New streams: the last task may have closed or replaced the old."""
        self._out = sys.stdout = _stream(1)
        self._err = sys.stderr = _stream(2)

    def flush(self) -> None:
        """Have all that was printed be in the file."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        linux.flush_stdio()

    def end_of_task(self) -> int:
        """Flush, put back what user code has changed, and return the file's size: there the next task's log begins."""
        self.flush()
        try:
            moved = _identity(1) != self._identity or _identity(2) != self._identity
        except OSError:
            moved = True
        if moved:
            self._redirect()
        elif not (sys.stdout is self._out and sys.stderr is self._err and _is_new(self._out) and _is_new(self._err)):
            self._renew()
        return os.fstat(self._file).st_size

    def close(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.close(null)
        with contextlib.suppress(OSError):
            os.close(self._file)


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _stream(descriptor: int) -> TextIO:
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _is_new(stream: TextIO) -> bool:
    """Whether it is open, and as it was made."""
    return not stream.closed and (stream.encoding, stream.errors, stream.line_buffering) == _MADE


_MADE = ("utf-8", "backslashreplace", True)
