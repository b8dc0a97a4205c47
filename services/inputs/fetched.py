"""A task's input as it is fetched: a file or directory on the node's disk, and what the child must know of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.inputs.places import Source
from services.inputs.reader import Step


@dataclass(frozen=True, slots=True)
class FetchedInput:
    """Where a task's input is, and how many bytes of it were fetched.

    `header_bytes` of the file are the header that was put before a part. `source` is the object that the file is (a
    part of). `options` are what a reader of the format has to know besides. `steps` are what the child has to do first,
    to make the input of what was fetched, and `checks` what it has to make sure of; both as JSON.
    """

    path: Path
    bytes: int
    format: str | None = None
    header_bytes: int = 0
    source: Source | None = None
    options: dict[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    checks: list[Step] = field(default_factory=list)
