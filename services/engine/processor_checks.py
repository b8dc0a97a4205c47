"""What can be told of a processor before any task of it runs: each would fail every task, or lose its output."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from services.contract.params import PLACEHOLDER, SQL_PARAM
from services.engine.errors import SpecError
from services.engine.spec import OWN_FILENAMES, ProcessorSpec

_SINGLE = ("input", "output", "index", "package")
_DOTTED = ("params", "inputs", "outputs")
# Braces mean much in other languages: only what is an argument by itself, or has a name behind a dot, can be a slip.
_LIKE_A_PLACEHOLDER = re.compile(r"(?<![${])\{([A-Za-z]+)(\.[A-Za-z_]\w*)?\}(?!\})")

_ONE = "write one SELECT"


def check_processor(spec: ProcessorSpec) -> None:
    """Raises SpecError. It may take a moment: DuckDB is loaded for a query."""
    if spec.sql is not None:
        _check_query(spec.sql)
    for field in ("entrypoint", "command"):
        for number, argument in enumerate(getattr(spec, field) or ()):
            _check_argument(spec, argument, f"{field}.{number}")
    if spec.kind in ("records", "sql"):
        name = f"{spec.output}.{spec.output_format}"  # what an output without a suffix is named
        if name in OWN_FILENAMES:
            raise SpecError("output", spec.output, f"Piecework itself writes a file named {name}; choose another name")


def _check_query(query: str) -> None:
    import duckdb  # the import is slow, and most processors do not need it

    names = set(SQL_PARAM.findall(query))
    try:
        with duckdb.connect(config={"threads": 1}) as connection:
            statements = connection.extract_statements(SQL_PARAM.sub(r"$\1", query))
            kinds = [statement.type.name for statement in statements]
            named = set().union(*(statement.named_parameters for statement in statements))
    except duckdb.Error as error:
        reason, _, rest = str(error).partition("\n")
        line = next((line.strip() for line in rest.splitlines() if line.startswith("LINE ")), "")
        raise SpecError("sql", query, f"DuckDB can't read this: {reason}{f' ({line})' if line else ''}") from error
    if kinds != ["SELECT"]:
        found = " and ".join(kinds) or "nothing"
        raise SpecError("sql", query, f"{_ONE}; this is {found}")
    if quoted := sorted(names - named):
        fix = f"{{params.{quoted[0]}}} is inside quotes, where no value can stand: write it without"
        raise SpecError("sql", query, fix)


def _check_argument(spec: ProcessorSpec, argument: str, field: str) -> None:
    for match in PLACEHOLDER.finditer(argument):
        kind, name = match[2], match[3]
        if match[1] == "package" and spec.package is None:
            raise SpecError(field, argument, "{package} is where a pushed package is: push one, or leave it out")
        if kind in ("inputs", "outputs") and name not in getattr(spec, kind):
            declared = ", ".join(getattr(spec, kind)) or "none"
            raise SpecError(field, argument, f"{match[0]} is not declared: add it to {kind} (declared: {declared})")
        if kind == "params" and _forbids(spec.params_schema, name):
            raise SpecError(field, argument, f"{match[0]} is not a param that params_schema allows: add it there")
    for written, meant in _slips(argument):
        raise SpecError(field, argument, f"{written} is not a placeholder; write {meant}")


def _forbids(schema: Mapping[str, Any] | None, name: str) -> bool:
    if schema is None or schema.get("additionalProperties") is not False or "patternProperties" in schema:
        return False
    return name not in (schema.get("properties") or {})


def _slips(argument: str) -> Iterator[tuple[str, str]]:
    """What looks like a placeholder with a slip of the pen, and what was probably meant."""
    for match in _LIKE_A_PLACEHOLDER.finditer(argument):
        head, tail = match[1], match[2] or ""
        if head in (*_SINGLE, *_DOTTED) or (not tail and match[0] != argument):
            continue
        if close := get_close_matches(head.lower(), _DOTTED if tail else _SINGLE, n=1, cutoff=0.75):
            yield match[0], f"{{{close[0]}{tail}}}"


def check_named_params(spec: ProcessorSpec, params: Mapping[str, Any], name: str, field: str) -> None:
    """Raises SpecError for a param that a query does not name: unlike a program, it can't read it in another way."""
    if spec.sql is None or not params:
        return
    named = {*SQL_PARAM.findall(spec.sql), *re.findall(r"\$([A-Za-z_]\w*)", spec.sql)}
    for param, value in params.items():
        if param not in named:
            known = ", ".join(sorted(named)) or "none"
            fix = f"the query of {name} names no such param (it names: {known}): leave it out"
            raise SpecError(f"{field}.{param}", value, fix)
