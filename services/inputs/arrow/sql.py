"""Arrow for DuckDB: the same rows and columns as Parquet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.inputs.arrow.read import ArrowRows
from services.inputs.sql_file import SqlFile, View
from services.inputs.sql_parquet import write_columns


def show(file: Path, format: str, options: Mapping[str, Any], view: View) -> SqlFile:
    """Raises TaskError (input_invalid)."""
    return write_columns(ArrowRows(file), view)
