"""The paths of a task's files on the node's disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.worker.task.scratch import empty_directory, remove_tree
from services.worker.task.user_files import UserFiles


class Workspace:
    """An attempt's private directory: user code starts in `work` and writes to `output`.

    What the task has left is opened by `files` alone, wherever the directory is then.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files: UserFiles | None = None

    @property
    def files(self) -> UserFiles:
        if self._files is None:
            raise FileNotFoundError(f"{self.directory} was not made")
        return self._files

    @property
    def work(self) -> Path:
        return self.directory / "work"

    @property
    def output(self) -> Path:
        return self.directory / "output"

    @property
    def tmp(self) -> Path:
        """TMPDIR of the task."""
        return self.directory / "tmp"

    @property
    def log(self) -> Path:
        return self.directory / "log.txt"

    @property
    def rejects(self) -> Path:
        return self.directory / "rejects.jsonl"

    @property
    def listing(self) -> Path:
        """The outputs that a reduce works on, one per line."""
        return self.directory / "listing.jsonl"

    @property
    def spill(self) -> Path:
        """Where a query spills what does not fit into memory."""
        return self.directory / "spill"

    @property
    def items(self) -> Path:
        """The items of a task of a fan-out stage, one task input per line."""
        return self.directory / "piecework-items.jsonl"

    @property
    def records(self) -> Path:
        """Where a command may report its record counts."""
        return self.directory / "records.json"

    def make(self, *, empty: bool = False) -> None:
        """With the places of one task in it, unless it is to be `empty`."""
        self.directory.mkdir(mode=0o700)
        self._files = UserFiles(self.directory)
        if empty:
            return
        self.work.mkdir()
        self.output.mkdir()
        self.tmp.mkdir()

    def remove(self) -> None:
        """Remove all that is in it, wherever the task may have moved it, and then itself. May take long."""
        if self._files is not None:
            empty_directory(self._files.fileno())
            self._files.close()
        remove_tree(self.directory)


@dataclass(frozen=True, slots=True)
class Paths:
    """The paths that a processor gets: input, output, declared inputs and outputs, and its unpacked package."""

    input: Path
    output: Path
    records: Path
    inputs: Mapping[str, Path] = field(default_factory=dict)
    outputs: Mapping[str, Path] = field(default_factory=dict)
    package: Path | None = None
