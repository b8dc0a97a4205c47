"""The record counts that a command or callable reports: read, written, rejected and dropped."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from services.contract.states import RECORD_COUNTS
from services.contract.task_error import TaskError

_FILE = "the file in PIECEWORK_RECORDS"
_FILE_BYTES_MAX = 65_536
COUNT_MAX = 2**48  # of one attempt: Postgres adds those of many


def read_counts(path: Path) -> dict[str, int]:
    """The counts that a command has written to the path in PIECEWORK_RECORDS; empty if there are none."""
    try:
        text = _read(path)
    except FileNotFoundError:
        return {}
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(_FILE, f"is not JSON: {error}") from None
    return check_counts(told, _FILE)


def _read(path: Path) -> bytes:
    """A small regular file; anything else might keep this process waiting."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _FILE_BYTES_MAX:
            raise _invalid(_FILE, f"is not a regular file of at most {_FILE_BYTES_MAX} bytes")
        return os.read(descriptor, _FILE_BYTES_MAX)
    finally:
        os.close(descriptor)


def check_counts(told: Any, source: str) -> dict[str, int]:
    """Raises TaskError (output_invalid) unless they are counts with known names."""
    if not isinstance(told, dict):
        raise _invalid(source, f"must be an object of {', '.join(RECORD_COUNTS)}")
    for name, count in told.items():
        if name not in RECORD_COUNTS:
            raise _invalid(source, f"has {name!r}; the counts are {', '.join(RECORD_COUNTS)}")
        if type(count) is not int or not 0 <= count <= COUNT_MAX:
            raise _invalid(source, f"says {name} = {count!r}; it must be an integer, not negative, at most {COUNT_MAX}")
    return told


def _invalid(source: str, what: str) -> TaskError:
    return TaskError("output_invalid", f"{source}: the record counts: {what}", retryable=False)
