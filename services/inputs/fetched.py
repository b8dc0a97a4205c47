"""A fetched task input: a file or directory on the node's disk, and what the child must know about it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.inputs.places import Source
from services.inputs.reader import Step


@dataclass(frozen=True, slots=True)
class FetchedInput:
    """The path of a task's input, and how many bytes of it were fetched.

    The first `header_bytes` bytes of the file are the header that was put before a part. `source` is the object that
    the file is (a part of). `options` are further options for the format's reader. `steps` turn the fetched file into
    the input, and `checks` verify it; the child does both, and both are JSON.
    """

    path: Path
    bytes: int
    format: str | None = None
    header_bytes: int = 0
    source: Source | None = None
    options: dict[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    checks: list[Step] = field(default_factory=list)
