"""A task's log: kept short, and uploaded to S3."""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import structlog

from services.contract.location import Location
from services.worker.child import linux

log = structlog.get_logger()

_PUT_SECONDS = 60.0
_LOOK_SECONDS = 1.0


async def hold_log_down(path: Path, bytes_max: int) -> None:
    """Until cancelled, free the disk space of the middle of a log that grows without end."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        free_middle(path, bytes_max)


def free_middle(path: Path, bytes_max: int) -> None:
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        linux.free_range(file.fileno(), bytes_max, os.fstat(file.fileno()).st_size - bytes_max)


async def put_log(s3: Any, path: Path, target: Location, bytes_max: int) -> bool:
    """Upload the log unless it is empty; True if it was stored. A failure does not fail the attempt."""
    try:
        body = shorten_log(path, bytes_max)
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


def shorten_log(path: Path, bytes_max: int) -> bytes:
    """The log. If it is longer than `bytes_max`: its beginning, a line that says so, and its end."""
    if not path.exists():
        return b""
    size, half = path.stat().st_size, bytes_max // 2
    with path.open("rb") as file:
        if size <= bytes_max:
            return file.read()
        head = file.read(half)
        file.seek(size - half)
        tail = file.read(half)
    left_out = f"\n[piecework: {size - 2 * half} bytes left out here, log_bytes_max is {bytes_max}]\n"
    return head + left_out.encode() + tail
