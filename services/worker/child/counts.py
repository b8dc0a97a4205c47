"""The record counts that a command or callable reports: read, written, rejected and dropped."""

import json
from pathlib import Path
from typing import Any

from services.contract.states import RECORD_COUNTS
from services.contract.task_error import TaskError

_COUNT_MAX = 2**63 - 1


def read_counts(path: Path) -> dict[str, int]:
    """The counts that a command has written to the path in PIECEWORK_RECORDS; empty if there are none."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        told = json.loads(text)
    except ValueError as error:
        raise _invalid("the file in PIECEWORK_RECORDS", f"is not JSON: {error}") from None
    return check_counts(told, "the file in PIECEWORK_RECORDS")


def check_counts(told: Any, source: str) -> dict[str, int]:
    """Raises TaskError (output_invalid) unless they are counts with known names."""
    if not isinstance(told, dict):
        raise _invalid(source, f"must be an object of {', '.join(RECORD_COUNTS)}")
    for name, count in told.items():
        if name not in RECORD_COUNTS:
            raise _invalid(source, f"has {name!r}; the counts are {', '.join(RECORD_COUNTS)}")
        if type(count) is not int or not 0 <= count <= _COUNT_MAX:
            raise _invalid(source, f"says {name} = {count!r}; it must be an integer, not negative")
    return told


def _invalid(source: str, what: str) -> TaskError:
    return TaskError("output_invalid", f"{source}: the record counts: {what}", retryable=False)
