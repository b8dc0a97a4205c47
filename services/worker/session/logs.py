"""A session's log: one file, of which each task has the bytes between two offsets."""

import contextlib
import os
from io import BufferedReader, FileIO
from typing import Any

from services.contract.location import Location
from services.contract.task_error import TaskError
from services.platform.threads import beside_loop
from services.worker.child import linux
from services.worker.task.masking import Mask
from services.worker.task.paths import Workspace
from services.worker.task.task_log import put_text, shorten
from services.worker.task.user_files import Reading

FILE_BYTES_MAX = 64 << 20  # a session ends when its log is longer


class SessionLog:
    """The worker's view of the file that a session's child appends to. It is opened when there is something in it."""

    def __init__(self, workspace: Workspace, bytes_max: int) -> None:
        self._workspace = workspace
        self._bytes_max = bytes_max  # kept of a task's log
        self._file: FileIO | None = None
        self.end = 0  # of what the tasks that have ended have printed

    def cut(self, end: int) -> tuple[int, int]:
        """What the task has printed that has just ended, where the file is this long."""
        start, self.end = self.end, end
        return start, max(start, end)

    def size(self) -> int:
        """The file's; 0 if user code has put something else in its place."""
        try:
            file = self._open()
        except (TaskError, OSError):
            return 0
        return 0 if file is None else os.fstat(file.fileno()).st_size

    def hold_down(self) -> None:
        """Free the disk space of the middle of what the running task prints, if that grows without end."""
        try:
            file = self._open()
        except (TaskError, OSError):  # nothing of it is stored either
            return
        if file is not None:
            end = os.fstat(file.fileno()).st_size - self._bytes_max
            linux.free_range(file.fileno(), self.end + self._bytes_max, end)

    async def put(self, s3: Any, target: Location, start: int, end: int, mask: Mask) -> bool:
        """Upload a task's part; True if it was stored. A failure does not fail the attempt."""
        return await put_text(s3, target, lambda: self._read(start, end, mask))

    def _read(self, start: int, end: int, mask: Mask) -> bytes:
        file = self._open()
        return b"" if file is None else shorten(BufferedReader(Reading(file)), start, end, self._bytes_max, mask)

    def _open(self) -> FileIO | None:
        if self._file is None:
            self._file = self._workspace.files.open(self._workspace.log, write=True)
        return self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


async def hold_down(log: SessionLog) -> None:
    with contextlib.suppress(TaskError):  # the file system does not answer
        await beside_loop(log.hold_down)
