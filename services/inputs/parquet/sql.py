"""Parquet for DuckDB, which reads it itself, except what it would misread."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.contract.task_error import TaskError
from services.inputs.chunk import SplitError
from services.inputs.names import named, unique_names
from services.inputs.parquet.read import ParquetRows
from services.inputs.parquet.schema import read_columns
from services.inputs.sql_file import SqlFile, View
from services.inputs.sql_parquet import DECIMAL_DIGITS_MAX, write_columns


def show(file: Path, format: str, options: Mapping[str, Any], view: View) -> SqlFile:
    """Raises TaskError (input_invalid)."""
    if view.checks_values or _would_be_misread(file):
        return write_columns(ParquetRows(file), view)
    return SqlFile(file, "parquet")


def _would_be_misread(file: Path) -> bool:
    """Whether DuckDB would change values or names."""
    try:
        columns = read_columns(file)
        names = named([column.name for column in columns])
    except SplitError as error:
        raise TaskError("input_invalid", str(error), retryable=False) from None
    except ValueError as error:
        raise TaskError("input_invalid", f"the Parquet file {error}: rename one of them", retryable=False) from None
    has_own_names = all(column.name for column in columns) and unique_names(names) == names
    return not has_own_names or max((column.digits for column in columns), default=0) > DECIMAL_DIGITS_MAX
