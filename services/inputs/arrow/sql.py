"""Arrow for DuckDB: the same rows and columns as Parquet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.inputs.arrow.read import open_batches
from services.inputs.sql_file import SqlFile, View, write_parquet


def show(file: Path, format: str, options: Mapping[str, Any], view: View) -> SqlFile:
    """Raises TaskError (input_invalid)."""
    with open_batches(file) as (schema, batches):
        return write_parquet(view.directory / f"{file.name}.parquet", schema, batches)
