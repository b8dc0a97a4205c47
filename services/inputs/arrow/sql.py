"""Arrow for DuckDB: the same rows and columns as Parquet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.inputs.arrow.read import open_arrow
from services.inputs.sql_file import Rewriter, SqlFile


def show(file: Path, format: str, options: Mapping[str, Any], rewriter: Rewriter) -> SqlFile:
    """A row group for each record batch. Raises TaskError (input_invalid)."""
    import pyarrow.parquet

    target = rewriter.directory / f"{file.name}.parquet"
    with open_arrow(file) as reader, pyarrow.parquet.ParquetWriter(target, reader.schema) as writer:
        for number in range(reader.num_record_batches):
            writer.write_batch(reader.get_batch(number))
    return SqlFile(target, "parquet")
