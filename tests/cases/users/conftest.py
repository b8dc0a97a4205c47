"""People who use the grid from a terminal: what they type is what is run, and each line that they type is a step."""

import contextlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from piecework.cli import app
from tests.cases.conftest import CaseGrid


@dataclass
class Person:
    """Somebody in a directory of their own. `steps` counts the commands that they had to type."""

    home: Path
    environment: dict[str, str]
    steps: int = field(default=0)

    def has(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            (self.home / name).parent.mkdir(parents=True, exist_ok=True)
            (self.home / name).write_text(text)

    def types(self, line: str, *, exit_code: int = 0) -> str:
        """What the terminal shows of a `piecework` command."""
        program, *arguments = shlex.split(line)
        assert program == "piecework"
        self.steps += 1
        with contextlib.chdir(self.home):
            ended = CliRunner(env=self.environment).invoke(app, arguments, catch_exceptions=False)
        seen = ended.stdout + ended.stderr
        assert ended.exit_code == exit_code, f"{line}\n{seen}"
        return seen


@pytest.fixture
def person(grid: CaseGrid, tmp_path: Path) -> Person:
    return Person(tmp_path, grid.environment)


@pytest.fixture
def colleague(grid: CaseGrid, person: Person) -> Callable[[str], Person]:
    """Somebody else at the same directory, with this key."""
    return lambda key: Person(person.home, grid.environment | {"PIECEWORK_API_KEY": key})
