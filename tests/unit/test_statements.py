"""Statements are written out whole: what is read in the code is what Postgres gets."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVICES = Path(__file__).parents[2] / "services"
DUCKDB = SERVICES / "worker" / "child"  # its statements have the names of files and columns in them

STATEMENT = re.compile(r"\b(SELECT|INSERT INTO|UPDATE \w+|DELETE FROM)\b")


def put_together(source: str) -> Iterator[int]:
    """The lines where a statement is made by an f-string, by `format` or by `replace`."""
    nodes = list(ast.walk(ast.parse(source)))
    constants = {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign) and STATEMENT.search(ast.unparse(node.value))
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in nodes:
        match node:
            case ast.JoinedStr() if STATEMENT.search(ast.unparse(node)):
                yield node.lineno
            case ast.Call(func=ast.Attribute(value=value, attr="format" | "replace")):
                if STATEMENT.search(ast.unparse(node)) or (isinstance(value, ast.Name) and value.id in constants):
                    yield node.lineno


@pytest.mark.parametrize(
    "source",
    [
        "rows = f'SELECT {columns} FROM tasks'",
        "_ALL = 'SELECT FROM tasks'\n_FEW = _ALL.replace('tasks', 'few')",
        "_GONE = 'DELETE FROM {}'\ndelete(_GONE.format(table))",
    ],
)
def test_a_statement_that_is_put_together_is_found(source: str) -> None:
    assert list(put_together(source)) == [source.count("\n") + 1]


def test_no_statement_is_put_together() -> None:
    sources = [path for path in SERVICES.rglob("*.py") if not path.is_relative_to(DUCKDB)]
    assert [f"{path}:{line}" for path in sources for line in put_together(path.read_text())] == []
