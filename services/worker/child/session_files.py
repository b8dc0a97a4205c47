"""The files of a session's tasks: each finds a directory as new, under a name that no task before it had.

There is one directory, which gets the next name. Inputs and outputs are in it only while their own task runs: they come
and go with tasks and answers. If a task leaves in it what can't be removed at once, the session ends.

    {private}/{token}/input.json            as the file is called
    {private}/{token}/work, output, tmp     where the task starts; for its output; TMPDIR
"""

import contextlib
import os
import stat
from collections.abc import Collection

from services.worker.child.job import FILE_BYTES_MAX, SessionFiles

_INSIDE = ("work", "output", "tmp")
_REMOVED_MAX = 100  # files and directories: the worker removes more of them, while others run
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class TaskFiles:
    """The directory of the task that runs, in the session's directory `private`, where files `beside` it are, too."""

    def __init__(self, private: str, files: SessionFiles, beside: Collection[str]) -> None:
        self.input = ""
        self._private = private
        self._files = files
        self._beside = beside
        self._at = ""
        self._as_new: list[tuple[int, int]] = []
        self._removed = 0

    @property
    def work(self) -> str:
        return f"{self._at}/work"

    @property
    def output(self) -> str:
        return f"{self._at}/output/{self._files['output']}"

    def variables(self) -> dict[str, str]:
        """Those of the environment that name places of the task."""
        places = {name: f"{self._at}/{place}" for name, place in self._files["places"].items()}
        return {**places, "PIECEWORK_INPUT": self.input}

    def begin(self, token: int, name: str, body: memoryview) -> None:
        """Make the directory of a task, and its input. Raises OSError."""
        at = f"{self._private}/{token}"
        if self._at:
            os.rename(self._at, at)  # noqa: PTH104  # here and below, calls of `os` are quicker
        else:
            for place in (at, *(f"{at}/{inside}" for inside in _INSIDE)):
                os.mkdir(place)  # noqa: PTH102
        self._at, self.input = at, f"{at}/{name}"
        self._as_new = self._as_new or self._found()
        file = os.open(self.input, _WRITE, 0o666)
        try:
            while body:
                body = body[os.write(file, body) :]
        finally:
            os.close(file)

    def end(self, *, succeeded: bool) -> tuple[bool, bytes | None]:
        """Whether the next task will find everything as new; and this one's output, if it has succeeded with one.

        If not, the output is where the task has left it, and so may be all else.
        """
        try:
            output = _look(self.output)
            if (succeeded and not self._may_be_sent(output)) or self._found() != self._as_new:
                return False, None
            self._tidy({self._files["output"]} if succeeded else ())
            if output is None or not succeeded:
                return True, None
            body = _read(self.output, output.st_size)
            os.unlink(self.output)  # noqa: PTH108
        except OSError:
            return False, None
        return True, body

    def _may_be_sent(self, output: os.stat_result | None) -> bool:
        """With the answer. A file that is large or odd is looked at by the worker, and so are the traces of none."""
        if output is None:
            return not self._files["requires_output"]
        return stat.S_ISREG(output.st_mode) and output.st_nlink == 1 and output.st_size <= FILE_BYTES_MAX

    def _found(self) -> list[tuple[int, int]]:
        """Which directories these are, and who may do what with them."""
        places = (self._at, *(f"{self._at}/{inside}" for inside in _INSIDE))
        return [(found.st_ino, found.st_mode) for found in map(os.lstat, places)]

    def _tidy(self, outputs: Collection[str]) -> None:
        """Remove the input, and all that is not where it was but these outputs. Raises OSError."""
        self._removed = 0
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.input)  # noqa: PTH108
        self._empty(self._private, (self._at.rpartition("/")[2], *self._beside))
        self._empty(self._at, _INSIDE)
        for inside in _INSIDE:
            self._empty(f"{self._at}/{inside}", outputs if inside == "output" else ())

    def _empty(self, place: str, kept: Collection[str]) -> None:
        for name in os.listdir(place):  # noqa: PTH208
            if name not in kept:
                self._remove(f"{place}/{name}")

    def _remove(self, path: str) -> None:
        self._removed += 1
        if self._removed > _REMOVED_MAX:
            raise OSError("there is too much to remove")
        if stat.S_ISDIR(os.lstat(path).st_mode):
            self._empty(path, ())
            os.rmdir(path)  # noqa: PTH106
        else:
            os.unlink(path)  # noqa: PTH108


def _look(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _read(path: str, size: int) -> bytes:
    file = os.open(path, _READ)
    try:
        return os.read(file, size)
    finally:
        os.close(file)
