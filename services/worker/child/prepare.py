"""Prepares a task's input before its processor sees it: builds it from the fetched files, and checks it."""

from collections.abc import Sequence
from pathlib import Path

from services.inputs.reader import Step
from services.worker.child.readers import read_module


def prepare(steps: Sequence[Step], input: Path) -> None:
    """Raises TaskError (input_invalid, records_torn)."""
    for step in steps:
        read_module(step["format"]).STEPS[step["step"]](input, **step["arguments"])
