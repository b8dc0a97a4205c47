"""Avro for DuckDB: its records, written as a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.contract.task_error import Malformed
from services.inputs.arrow_ticks import to_array
from services.inputs.avro.kinds import field_kinds
from services.inputs.avro.read import AvroRecords
from services.inputs.sql_file import SqlRows, View

_GROUP_ROWS = 20_000
_Numbered = tuple[int, tuple[Any, str | None]]


def show(file: Path, format: str, options: Mapping[str, Any], view: View) -> SqlRows:
    """Raises TaskError (input_invalid)."""
    return SqlRows(AvroRecords(file))
