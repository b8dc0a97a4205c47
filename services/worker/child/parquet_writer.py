"""Records written as Parquet, by pyarrow; only tasks that write Parquet import it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from services.contract.task_error import Malformed
from services.worker.child.parquet_values import check_names, column, type_of

_BATCH_ROWS = 10_000  # the first rows, which determine the schema
_GROUP_ROWS = 1_000_000
_GROUP_BYTES = 128 << 20  # in memory; a reader takes one row group at a time

Refuse = Callable[[Any, str, int], None]


class ParquetWriter:
    """Columns and types come from the first 10,000 rows; later rows that do not fit are refused.

    A row is checked only when its batch is full. So `origin` is asked where a row comes from when the row is written,
    and `refuse` gets the origin, the reason, and the number of rows of that origin to take back.
    """

    header_bytes = 0

    def __init__(self, path: Path, origin: Callable[[], Any], refuse: Refuse) -> None:
        self._path = path
        self._origin = origin
        self._refuse = refuse
        self._waiting: list[tuple[Any, Sequence[Any]]] = []  # rows by their origin
        self._waiting_rows = 0
        self._batches: list[Any] = []
        self._rows = self._bytes = 0  # of the batches
        self._schema: Any = None
        self._file: Any = None

    def write(self, record: Any) -> None:
        self.write_all((record,))

    def write_all(self, records: Sequence[Any]) -> None:
        for record in records:
            if not isinstance(record, Mapping):
                raise Malformed(f"a Parquet row must be a dict, this is of type {type(record).__name__}")
            if self._schema is None:
                check_names(record)
            elif not record.keys() <= self._names:
                raise Malformed(f"the record has the keys {list(record)}, the columns are {self._schema.names}")
        self._waiting.append((self._origin(), records))
        self._waiting_rows += len(records)
        if self._waiting_rows >= _BATCH_ROWS:
            self._convert()

    def close(self) -> None:
        """Without a row there is no file, because its columns are unknown."""
        if self._waiting_rows:
            self._convert()
        self._write_group()
        if self._file is not None:
            self._file.close()

    def _convert(self) -> None:
        """Make a batch of the waiting rows, without those that do not fit."""
        import pyarrow

        waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        rows = [row for _, records in waiting for row in records]
        if self._schema is None:
            names = list(dict.fromkeys(name for row in rows for name in row))
            self._schema = pyarrow.schema([(name, type_of([row.get(name) for row in rows])) for name in names])
            self._names = set(names)
        try:
            self._add(_batch(rows, self._schema))
        except Malformed:
            for origin, records in waiting:
                try:
                    self._add(_batch(records, self._schema))
                except Malformed as error:
                    self._refuse(origin, str(error), len(records))

    def _add(self, batch: Any) -> None:
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow
        import pyarrow.parquet

        if self._batches:
            if self._file is None:
                self._file = pyarrow.parquet.ParquetWriter(self._path, self._schema)
            table = pyarrow.Table.from_batches(self._batches, self._schema)
            self._file.write_table(table, row_group_size=max(1, table.num_rows))
            self._batches, self._rows, self._bytes = [], 0, 0


def _batch(rows: Sequence[Mapping[str, Any]], schema: Any) -> Any:
    """Raises Malformed; it names a column that does not fit."""
    import pyarrow

    columns = [column(field, [row.get(field.name) for row in rows]) for field in schema]
    return pyarrow.RecordBatch.from_arrays(columns, schema=schema)
