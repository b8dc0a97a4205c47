"""The params that a processor's command or SQL names: without one of them no task of a stage can succeed."""

import re
from collections.abc import Mapping
from typing import Any

from services.common.spec import ProcessorSpec

# As the worker reads them (services/worker/placeholders.py, services/worker/child/sql.py).
_OF_COMMAND = re.compile(r"\{params\.([^{}]+)\}")
_OF_SQL = re.compile(r"\{params\.([A-Za-z_][A-Za-z0-9_]*)\}")


def find_missing(processor: ProcessorSpec, params: Mapping[str, Any]) -> str | None:
    """What names a param that is not among these, as it is written there: `{params.NAME}`, or in SQL `$NAME`."""
    if processor.sql is not None:
        return _find_missing(_OF_SQL, processor.sql, params) or _find_missing_dollar(processor.sql, params)
    missing = (_find_missing(_OF_COMMAND, argument, params) for argument in processor.command or [])
    return next(filter(None, missing), None)


def _find_missing(pattern: re.Pattern[str], text: str, params: Mapping[str, Any]) -> str | None:
    return next((match[0] for match in pattern.finditer(text) if match[1] not in params), None)


def _find_missing_dollar(query: str, params: Mapping[str, Any]) -> str | None:
    """Only DuckDB can tell a `$NAME` from what is in quotes and comments; what it can't read is left to the tasks."""
    if "$" not in query:
        return None
    import duckdb  # which takes its time, and most queries need none

    try:
        with duckdb.connect(config={"threads": 1}) as connection:
            statements = connection.extract_statements(_OF_SQL.sub(r"$\1", query))
            named = {name for statement in statements for name in statement.named_parameters}
    except duckdb.Error:
        return None
    return next((f"${name}" for name in sorted(named) if name not in params), None)
