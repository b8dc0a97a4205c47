"""Parquet for DuckDB, which reads it itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.inputs.sql_file import Rewriter, SqlFile


def show(file: Path, format: str, options: Mapping[str, Any], rewriter: Rewriter) -> SqlFile:
    return SqlFile(file, "parquet")
