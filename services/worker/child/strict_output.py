"""What DuckDB writes otherwise than it should: numbers that JSON has not, and integers that Parquet has not."""

import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.worker.child.sql_views import identifier

_NO_NUMBERS = (b"NaN", b"Infinity")
_STRING_OR_NO_NUMBER = re.compile(rb'"(?:[^"\\]|\\.)*+"|-?(?:NaN|Infinity)')
_WIDE = re.compile(r"\bU?HUGEINT(?=[\[\],)]|$)")  # a field of that name is followed by its type


def keep_wide_integers(connection: Any, query: str, values: Mapping[str, Any]) -> str:
    """The query, with integers of 128 bits as DECIMAL(38, 0): in Parquet DuckDB makes them floating-point numbers.

    A sum of BIGINT is such an integer. One of 39 digits is an error, which names it.
    """
    described = connection.execute(f"DESCRIBE (\n{query}\n)", values or None).fetchall()
    kinds = [(name, _WIDE.sub("DECIMAL(38, 0)", kind), kind) for name, kind, *_ in described]
    if all(kept == kind for _, kept, kind in kinds):
        return query
    columns = ", ".join(f"c{n}::{kept} AS {identifier(name)}" for n, (name, kept, _) in enumerate(kinds))
    return f"SELECT {columns} FROM (\n{query}\n) t({', '.join(f'c{n}' for n in range(len(kinds)))})"


def make_json_strict(path: Path) -> None:
    """NaN, Infinity and -Infinity become text, as in the JSON of Protocol Buffers."""
    if not _holds_any(path):
        return
    strict = path.with_name(f"{path.name}.strict")
    with path.open("rb") as source, strict.open("wb") as target:
        for line in source:
            wanted = any(word in line for word in _NO_NUMBERS)
            target.write(_STRING_OR_NO_NUMBER.sub(_quoted, line) if wanted else line)
    strict.replace(path)


def _holds_any(path: Path) -> bool:
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return any(data.find(word) >= 0 for word in _NO_NUMBERS)


def _quoted(found: re.Match[bytes]) -> bytes:
    return found[0] if found[0].startswith(b'"') else b'"' + found[0] + b'"'
