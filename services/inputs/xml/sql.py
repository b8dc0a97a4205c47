"""XML for DuckDB: each attribute and child of a record becomes a column of text, whatever its shape."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.inputs.sql_file import SqlRows, View
from services.inputs.xml.read import open_reader


def show(file: Path, format: str, options: Mapping[str, Any], view: View) -> SqlRows:
    """A dict or list becomes its JSON text. Raises TaskError (input_invalid)."""
    return SqlRows(open_reader(file, format, options))
