"""Where a task's files are on the node's disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Workspace:
    """An attempt's private directory: `work` is where user code starts, `output` holds what it makes."""

    directory: Path

    @property
    def work(self) -> Path:
        return self.directory / "work"

    @property
    def output(self) -> Path:
        return self.directory / "output"

    @property
    def log(self) -> Path:
        return self.directory / "log.txt"

    @property
    def rejects(self) -> Path:
        return self.directory / "rejects.jsonl"

    @property
    def listing(self) -> Path:
        """The outputs that a reduce works on, one a line."""
        return self.directory / "listing.jsonl"

    @property
    def spill(self) -> Path:
        """What a query's memory can't hold."""
        return self.directory / "spill"

    @property
    def items(self) -> Path:
        """What a task of a fan-out stage yields, a task input a line."""
        return self.directory / "items.jsonl"

    @property
    def records(self) -> Path:
        """Where a command may say how many records it has read and written."""
        return self.directory / "records.json"

    def make(self) -> None:
        self.directory.mkdir(mode=0o700)
        self.work.mkdir()
        self.output.mkdir()


@dataclass(frozen=True, slots=True)
class Paths:
    """What a processor is told: its input, its output, what it declares beside them, and its unpacked package."""

    input: Path
    output: Path
    records: Path
    inputs: Mapping[str, Path] = field(default_factory=dict)
    outputs: Mapping[str, Path] = field(default_factory=dict)
    package: Path | None = None
