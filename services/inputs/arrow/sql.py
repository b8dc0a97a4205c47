"""Arrow for DuckDB: the same rows and columns as Parquet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.inputs.arrow.read import open_arrow
from services.inputs.sql_file import Rewriter, SqlFile, write_parquet


def show(file: Path, format: str, options: Mapping[str, Any], rewriter: Rewriter) -> SqlFile:
    """Raises TaskError (input_invalid)."""
    with open_arrow(file) as reader:
        batches = map(reader.get_batch, range(reader.num_record_batches))
        return write_parquet(rewriter.directory / f"{file.name}.parquet", reader.schema, batches)
