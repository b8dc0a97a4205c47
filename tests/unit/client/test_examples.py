"""Examples work as they are written: those of the help, and each line of a page that calls the command."""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from piecework.cli import app
from piecework.cli.examples import EXAMPLES
from tests.unit.client.conftest import Run
from tests.unit.test_docs import PAGES, ROOT

COMMAND: Any = get_command(app)
STANDS_FOR = {
    "INDEX": "0",
    "VERSION": "1",
    "N": "1",
    "HASH": "0" * 64,
}
SHELL = {"|", "||", "&&", ";", ">", "<", "&", ">>", "2>"}


def parse(line: str) -> str:
    """The full name of the command that a line calls, with all of its options and arguments; raises what is wrong."""
    lexer = shlex.shlex(line, posix=False, punctuation_chars="|&;<>")  # which leaves quotes
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words = list(itertools.takewhile(lambda word: word not in SHELL, lexer))[1:]
    args = [STANDS_FOR.get(word, *shlex.split(word)) for word in words]
    command = COMMAND
    context = command.make_context("piecework", args)
    names = []
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        context.args, context._protected_args = [], []
        name, command, rest = command.resolve_command(context, rest)
        names.append(command.name)
        context = command.make_context(name, rest, parent=context)
    return " ".join(names)


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    """What examples read while they are parsed."""
    (tmp_path / "items.jsonl").touch()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_of_its_command_and_parses(name: str) -> None:
    for line in EXAMPLES[name]:
        assert name in [parse(call) for call in calls_of(line)]


def calls_of(line: str) -> list[str]:
    """The calls of the command in a line; xargs adds an argument."""
    line = re.sub(r"xargs (?:-n 1 )?(piecework .*)", r"\1 @last", line)
    return re.findall(
        r"(?:^|(?<=[|&(] ))piecework (?=[a-z-])(?:[^|&)'\"]|'[^']*'|\"[^\"]*\")*", line.replace("$(", "( ")
    )


def calls_in(page: Path) -> Iterator[tuple[int, str]]:
    """The numbered calls of the command in a page's blocks of code."""
    fenced = False
    lines = enumerate(page.read_text().splitlines(), 1)
    for number, line in lines:
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            while line.endswith("\\"):
                line = line[:-1] + next(lines)[1].strip()
            if "--install-completion" not in line:  # which would be done
                yield from ((number, call) for call in calls_of(line.strip().removeprefix("$ ")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_call_in_a_page_parses(page: Path) -> None:
    for number, call in calls_in(page):
        try:
            parse(call)
        except Exception as error:  # whatever it is, the page and the line are the news
            pytest.fail(f"{page}:{number}: {call}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_call_in_a_page_asks_for_an_id(page: Path) -> None:
    """Names, beginnings of ids and @last do wherever an id does: `JOB` stands for any of them."""
    assert re.findall(r"piecework (?:[a-z-]+ )+[^`#|\n]*\b[A-Z]+_ID\b", page.read_text()) == []


def test_a_wrong_example_would_be_seen() -> None:
    for wrong in ("piecework jbos", "piecework jobs --stat failed", "piecework task JOB", "piecework pools put"):
        with pytest.raises(Exception, match=r"jbos|--stat|stage|name"):
            parse(wrong)


def test_help_shows_examples(run: Run) -> None:
    for arguments in (["jobs", "list", "-h"], ["cancel", "-h"], ["jobs", "cancel", "-h"], ["pools", "put", "-h"]):
        text = run(*arguments).stdout
        first, *_ = text.partition(" Examples:")[2].split("\n piecework ")[1:]
        assert first
