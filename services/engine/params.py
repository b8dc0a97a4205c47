"""The params that a processor's command or SQL names. If one is missing, no task of the stage can succeed."""

from collections.abc import Iterable, Mapping
from typing import Any

from services.contract.params import PLACEHOLDER, SQL_PARAM


def find_missing_in_sql(query: str, params: Mapping[str, Any]) -> str | None:
    """The first placeholder of the query without a param, as written there: `{params.NAME}` or `$NAME`."""
    named = ((match[0], match[1]) for match in SQL_PARAM.finditer(query))
    return _first_missing(named, params) or _find_missing_dollar(query, params)


def find_missing_in_command(arguments: Iterable[str], params: Mapping[str, Any]) -> str | None:
    """The first placeholder of the command without a param: `{params.NAME}`."""
    placeholders = (match for argument in arguments for match in PLACEHOLDER.finditer(argument))
    return _first_missing(((match[0], match[3]) for match in placeholders if match[2] == "params"), params)


def _first_missing(named: Iterable[tuple[str, str]], params: Mapping[str, Any]) -> str | None:
    return next((written for written, name in named if name not in params), None)


def _find_missing_dollar(query: str, params: Mapping[str, Any]) -> str | None:
    """Only DuckDB can tell a `$NAME` from quoted text and comments. A query that it can't read fails in the tasks."""
    if "$" not in query:
        return None
    import duckdb  # the import is slow, and most queries do not need it

    try:
        with duckdb.connect(config={"threads": 1}) as connection:
            statements = connection.extract_statements(SQL_PARAM.sub(r"$\1", query))
            named = {name for statement in statements for name in statement.named_parameters}
    except duckdb.Error:
        return None
    return next((f"${name}" for name in sorted(named) if name not in params), None)
