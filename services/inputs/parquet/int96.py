"""Timestamps of type INT96, which Spark, Hive and Impala write: a day and nanoseconds, from year 1 to 9999 and beyond.

pyarrow reads them as nanoseconds, which wrap around outside the years 1677 to 2262, or as microseconds, which lose
digits. Together they are exact: the nanoseconds are right modulo 2**64, so they give the digits that are missing.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from services.contract.task_error import Malformed
from services.inputs.arrow_values import rows
from services.inputs.nanoseconds import Datetime, nanoseconds

_EPOCH = datetime(1970, 1, 1)


def int96_columns(file: Any) -> list[str]:
    """The columns of a pyarrow ParquetFile that have such timestamps, maybe within lists or structs."""
    columns = [file.metadata.schema.column(number) for number in range(file.metadata.num_columns)]
    within = {column.path for column in columns if column.physical_type == "INT96"}
    names: list[str] = file.schema_arrow.names
    return [name for name in names if any(path == name or path.startswith(f"{name}.") for path in within)]


def rows_in_nanoseconds(path: Path, names: list[str], batch_rows: int) -> Iterator[Mapping[str, Any] | Malformed]:
    """These columns of each row, in nanoseconds that may have wrapped around."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=batch_rows, columns=names):
            yield from rows(batch, batch.schema.names)


def exact(row: dict[str, Any], wrapped: Mapping[str, Any] | Malformed) -> dict[str, Any]:
    """The row, which has microseconds, with the digits that the same row in nanoseconds gives."""
    if isinstance(wrapped, Malformed):
        return row
    return row | {name: _exact(row[name], value) for name, value in wrapped.items()}


def _exact(value: Any, wrapped: Any) -> Any:
    match value:
        case Datetime() | None:  # of another type than INT96
            return value
        case datetime():
            if not isinstance(wrapped, Datetime):
                return value
            whole = _since_epoch(wrapped) + wrapped.nanosecond
            return Datetime.of(value, (whole - _since_epoch(value)) % 2**64)
        case dict():
            return {name: _exact(item, wrapped[name]) for name, item in value.items()}
        case list():
            return [_exact(item, other) for item, other in zip(value, wrapped, strict=True)]
        case tuple():  # an entry of a map
            return tuple(_exact(item, other) for item, other in zip(value, wrapped, strict=True))
    return value


def _since_epoch(moment: datetime) -> int:
    """In nanoseconds, without those that Python's own type can't hold."""
    return nanoseconds(moment - _EPOCH)
