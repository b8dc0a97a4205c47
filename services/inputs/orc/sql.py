"""ORC for DuckDB: the same rows and columns as Parquet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.inputs.orc.read import open_orc
from services.inputs.sql_file import SqlFile, View, write_parquet


def show(file: Path, format: str, options: Mapping[str, Any], view: View) -> SqlFile:
    """Raises TaskError (input_invalid)."""
    with open_orc(file) as reader:
        stripes = map(reader.read_stripe, range(reader.nstripes))
        return write_parquet(view.directory / f"{file.name}.parquet", reader.schema, stripes)
