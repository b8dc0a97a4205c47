"""Parquet for DuckDB, which reads it itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.inputs.sql_file import SqlFile, View


def show(file: Path, format: str, options: Mapping[str, Any], view: View) -> SqlFile:
    return SqlFile(file, "parquet")
