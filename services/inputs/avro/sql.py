"""Avro for DuckDB: its records as JSON lines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.inputs.avro.read import AvroRecords
from services.inputs.sql_file import Rewriter, SqlFile


def show(file: Path, format: str, options: Mapping[str, Any], rewriter: Rewriter) -> SqlFile:
    """Raises TaskError (input_invalid)."""
    return rewriter.write_json_lines(AvroRecords(file))
