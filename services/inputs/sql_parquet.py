"""Columns of Arrow, ORC and such Parquet as DuckDB misreads, as Parquet that it reads exactly.

A column of a type that Parquet lacks becomes text, as its values would be in a result of JSON; so it costs nothing
unless a query names it. A row with a value that can't be converted is rejected.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from services.contract.task_error import Malformed
from services.inputs.arrow_values import can_be_written, each_cell, values
from services.inputs.json_text import encode_json_column
from services.inputs.names import unique_names
from services.inputs.reader import BatchedRows, by_pyarrow
from services.inputs.sql_file import SqlFile, View

_BATCH_ROWS = 30_720
_GROUP_ROWS = 122_880
_GROUP_BYTES = 64 << 20
DECIMAL_DIGITS_MAX = 38  # DuckDB makes a floating-point number of a longer one

_Convert = Callable[[Any], Any]


def write_columns(reader: BatchedRows, view: View) -> SqlFile:
    """Write the reader's rows. Raises TaskError (input_invalid) for a file that can't be read."""
    import pyarrow.parquet

    target = view.directory / f"{reader.path.name}.parquet"
    batches = reader.batches(_BATCH_ROWS)
    first = next(batches, None)  # now the schema is known
    converters = [_converter(field.type) for field in reader.schema]
    fields = [(name, kind) for name, (kind, _) in zip(unique_names(reader.names), converters, strict=True)]
    rows = _Rows(reader, view, pyarrow.schema(fields), [convert for _, convert in converters])
    with by_pyarrow(reader.format), pyarrow.parquet.ParquetWriter(target, rows.schema) as writer:
        for batch in () if first is None else _chain(first, batches):
            for group in rows.take(batch):
                writer.write_table(group, row_group_size=_GROUP_ROWS)
        for group in rows.rest():
            writer.write_table(group, row_group_size=_GROUP_ROWS)
    return SqlFile(target, "parquet")


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


class _Rows:
    """Converts batches, and collects them to row groups."""

    def __init__(self, reader: BatchedRows, view: View, schema: Any, converters: list[_Convert]) -> None:
        self.schema = schema
        self._reader = reader
        self._view = view
        self._converters = converters
        self._number = 0  # of rows read
        self._group: list[Any] = []

    def take(self, batch: Any) -> Iterator[Any]:
        """Yields a table whenever there are rows enough."""
        self._group.append(self._convert(batch))
        rows, size = sum(part.num_rows for part in self._group), sum(part.nbytes for part in self._group)
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield from self.rest()

    def rest(self) -> Iterator[Any]:
        import pyarrow

        if self._group:
            yield pyarrow.Table.from_batches(self._group, self.schema)
            self._group = []

    def _convert(self, batch: Any) -> Any:
        import pyarrow

        columns, bad = [], dict[int, Malformed]()
        for name, field, convert, column in zip(
            self._reader.names, self.schema, self._converters, batch.columns, strict=True
        ):
            try:
                column.validate(full=True)
                columns.append(convert(column))
            except MemoryError:
                raise
            except Exception:  # pyarrow raises many kinds
                cells = each_cell(name, column, partial(_convert_cell, convert), bad)
                none = pyarrow.nulls(1, field.type)
                columns.append(pyarrow.concat_arrays([none if cell is None else cell for cell in cells]))
        for index in sorted(bad):
            self._view.reject(self._reader, self._number + index + 1, (batch, index, None), str(bad[index]))
        self._number += batch.num_rows
        converted = pyarrow.RecordBatch.from_arrays(columns, schema=self.schema)
        return (
            converted.filter(pyarrow.array([index not in bad for index in range(batch.num_rows)])) if bad else converted
        )


def _convert_cell(convert: _Convert, cell: Any) -> Any:
    """Without what the cell's buffers hold of other rows, which may be wrong there."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(cell.type):
        cell = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0]), cell.dictionary.take(cell.indices))
    alone = cell.take(pyarrow.array([0]))
    alone.validate(full=True)
    return convert(alone)


def _converter(kind: Any) -> tuple[Any, _Convert]:
    """The type of a column in Parquet, and how it becomes one of that type."""
    import pyarrow
    from pyarrow import compute, types

    if types.is_run_end_encoded(kind):
        inner, convert = _converter(kind.value_type)
        return inner, lambda column: convert(compute.run_end_decode(column))
    if types.is_dictionary(kind):
        inner, convert = _converter(kind.value_type)
        return inner, lambda column: convert(column.dictionary.take(column.indices))
    if types.is_timestamp(kind) and kind.unit in ("s", "ms"):  # DuckDB has microseconds
        finer = pyarrow.timestamp("us", kind.tz)
        return finer, lambda column: column.cast(finer)
    if types.is_decimal(kind) and kind.precision > DECIMAL_DIGITS_MAX:
        return pyarrow.string(), lambda column: column.cast(pyarrow.string())
    if _is_exact(kind) and can_be_written(kind):
        return kind, lambda column: column
    return pyarrow.json_(), _as_json


def _is_exact(kind: Any) -> bool:
    """Whether DuckDB reads every value in such a column exactly."""
    from pyarrow import types

    if types.is_decimal(kind):
        return bool(kind.precision <= DECIMAL_DIGITS_MAX and kind.scale >= 0)
    if types.is_nested(kind) and not types.is_run_end_encoded(kind):
        return all(_is_exact(kind.field(number).type) for number in range(kind.num_fields))
    return True


def _as_json(column: Any) -> Any:
    import pyarrow

    texts = [None if value is None else encode_json_column(value) for value in values(column)]
    return pyarrow.ExtensionArray.from_storage(pyarrow.json_(), pyarrow.array(texts, pyarrow.string()))
