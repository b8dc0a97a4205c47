"""The columns that a query may read, by its text: the others need not be read, nor fit their types."""

import json
from collections.abc import Iterator
from typing import Any

from services.inputs.table import ALL, Wanted

_WHOLE_ROWS = {"STAR", "POSITIONAL_REFERENCE"}


def find_wanted(connection: Any, query: str) -> Wanted:
    """Everything, if the query asks for columns without naming them, or if its text can't be told."""
    parsed = json.loads(connection.execute("SELECT json_serialize_sql($1)", [query]).fetchone()[0])
    if parsed["error"]:
        return ALL
    nodes = list(_nodes(parsed))
    names = {text.casefold() for node in nodes for text in _texts(node)}
    for node in nodes:
        if node.get("class") in _WHOLE_ROWS or node.get("ref_type") == "NATURAL" or _names_a_table(node, nodes):
            return ALL
    return Wanted(False, frozenset(names))


def _names_a_table(node: dict[str, Any], nodes: list[dict[str, Any]]) -> bool:
    """Whether the expression is a row as a whole: `SELECT input FROM input`."""
    if node.get("class") != "COLUMN_REF" or len(node["column_names"]) > 1:
        return False
    tables = [each for each in nodes if "sample" in each]
    names = {str(table.get(key)).casefold() for table in tables for key in ("table_name", "alias")}
    return node["column_names"][0].casefold() in names


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _nodes(each)
    elif isinstance(value, list):
        for each in value:
            yield from _nodes(each)


def _texts(node: dict[str, Any]) -> Iterator[str]:
    for value in node.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (each for each in value if isinstance(each, str))
