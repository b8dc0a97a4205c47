"""Avro for DuckDB: its records, written as a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.inputs.avro.read import AvroRecords
from services.inputs.sql_file import SqlRows, View


def show(file: Path, format: str, options: Mapping[str, Any], view: View) -> SqlRows:
    """Raises TaskError (input_invalid)."""
    return SqlRows(AvroRecords(file))
