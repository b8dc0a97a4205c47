"""A task's log: kept short, and uploaded to S3."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any

import structlog

from services.contract.location import Location
from services.contract.task_error import TaskError
from services.platform.threads import beside_loop
from services.worker.child import linux
from services.worker.task.masking import NOTHING, Mask
from services.worker.task.paths import Workspace
from services.worker.task.user_files import Reading, UserFiles

log = structlog.get_logger()

_PUT_SECONDS = 60.0
_LOOK_SECONDS = 1.0


async def hold_log_down(workspace: Workspace, bytes_max: int) -> None:
    """Until cancelled, free the disk space of the middle of a log that grows without end."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        with contextlib.suppress(TaskError):  # not a file: nothing of it is stored either
            await beside_loop(free_middle, workspace.files, workspace.log, bytes_max)


def free_middle(files: UserFiles, path: Path, bytes_max: int) -> None:
    if file := files.open(path, write=True):
        with file:
            linux.free_range(file.fileno(), bytes_max, os.fstat(file.fileno()).st_size - bytes_max)


def log_size(files: UserFiles, path: Path) -> int:
    """In bytes. Raises TaskError if it is not a file."""
    if file := files.open(path):
        with file:
            return os.fstat(file.fileno()).st_size
    return 0


async def put_log(s3: Any, workspace: Workspace, target: Location, bytes_max: int, mask: Mask = NOTHING) -> bool:
    """Upload the log unless it is empty; True if it was stored. A failure does not fail the attempt."""
    return await put_text(s3, target, lambda: shorten_log(workspace.files, workspace.log, bytes_max, mask))


async def put_live_log(s3: Any, workspace: Workspace, target: Location, bytes_max: int, mask: Mask) -> None:
    """Likewise, of a program that runs: its whole lines, as half a secret at the end would not be found."""

    def read() -> bytes:
        body = shorten_log(workspace.files, workspace.log, bytes_max, mask)
        return body[: max(body.rfind(b"\n"), body.rfind(b"\r")) + 1]

    await put_text(s3, target, read)


async def put_text(s3: Any, target: Location, read: Callable[[], bytes]) -> bool:
    """Upload what `read` returns, in a thread, unless it is empty; True if it was stored. Failures are only logged."""
    try:
        body = await beside_loop(read)
        if not body:
            return False
        async with asyncio.timeout(_PUT_SECONDS):
            await s3.put_object(
                Bucket=target.bucket, Key=target.key, Body=body, ContentType="text/plain; charset=utf-8"
            )
    except Exception as error:
        log.warning("log not stored", uri=target.uri, error=repr(error))
        return False
    return True


def shorten_log(files: UserFiles, path: Path, bytes_max: int, mask: Mask = NOTHING) -> bytes:
    """The log, masked. If it is longer than `bytes_max`: its beginning, a line that says so, and its end."""
    opened = files.open(path)
    if opened is None:
        return b""
    with opened, BufferedReader(Reading(opened)) as file:
        return shorten(file, 0, file.seek(0, os.SEEK_END), bytes_max, mask)


def shorten(file: "BufferedReader[Any]", start: int, end: int, bytes_max: int, mask: Mask) -> bytes:
    """The file's bytes from `start` to `end`, likewise."""
    size, half = end - start, bytes_max // 2
    file.seek(start)
    if size <= bytes_max:
        return mask.log(file.read(size))[0]
    head = file.read(half)
    file.seek(end - half)
    head, tail = mask.log(head, file.read(half))
    left_out = f"\n[piecework: {size - 2 * half} bytes left out here, log_bytes_max is {bytes_max}]\n"
    return head + left_out.encode() + tail
