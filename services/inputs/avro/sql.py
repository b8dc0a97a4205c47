"""Avro for DuckDB: its records as Parquet, with the types of the file's schema, whatever values a part has."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.contract.task_error import Malformed
from services.inputs.arrow_ticks import to_array
from services.inputs.avro.kinds import field_kinds
from services.inputs.avro.read import AvroRecords
from services.inputs.json_text import encode_json_column
from services.inputs.names import unique_names
from services.inputs.sql_file import SqlFile, SqlRows, View

_GROUP_ROWS = 4096
_Numbered = tuple[int, tuple[Any, str | None]]


def show(file: Path, format: str, options: Mapping[str, Any], view: View) -> SqlFile | SqlRows:
    """Raises TaskError (input_invalid)."""
    reader = AvroRecords(file)
    if reader.open()["type"] not in ("record", "error"):
        return SqlRows(reader)
    return _Rows(reader, view).write(view.directory / f"{file.name}.parquet")


class _Rows:
    def __init__(self, reader: AvroRecords, view: View) -> None:
        import pyarrow

        self._reader = reader
        self._view = view
        self._kinds = field_kinds(reader.open())
        kinds = [pyarrow.json_() if kind is None else kind for kind in self._kinds.values()]
        self._schema = pyarrow.schema(list(zip(unique_names(list(self._kinds)), kinds, strict=True)))

    def write(self, target: Path) -> SqlFile:
        import pyarrow.parquet

        waiting: list[_Numbered] = []
        with pyarrow.parquet.ParquetWriter(target, self._schema) as writer:
            for numbered in enumerate(self._reader.raws(), start=1):
                waiting.append(numbered)
                if len(waiting) == _GROUP_ROWS:
                    writer.write_batch(self._batch(waiting))
                    waiting = []
            if waiting:
                writer.write_batch(self._batch(waiting))
        return SqlFile(target, "parquet")

    def _batch(self, waiting: Sequence[_Numbered]) -> Any:
        """Without the records that can't be read or stored, which are rejected."""
        import pyarrow

        try:
            return self._columns([self._reader.parse(raw) for _, raw in waiting])
        except (pyarrow.ArrowException, TypeError, ValueError, ArithmeticError):
            pass
        good = [raw for number, raw in waiting if self._accepts(number, raw)]
        return self._columns([self._reader.parse(raw) for raw in good])

    def _accepts(self, number: int, raw: tuple[Any, str | None]) -> bool:
        import pyarrow

        try:
            self._columns([self._reader.parse(raw)])
        except Malformed as error:
            self._view.reject(self._reader, number, raw, str(error))
            return False
        except (pyarrow.ArrowException, TypeError, ValueError, ArithmeticError) as error:
            self._view.reject(self._reader, number, raw, f"can't be read by SQL: {error}")
            return False
        return True

    def _columns(self, records: Sequence[Mapping[str, Any]]) -> Any:
        import pyarrow

        columns = [_column([record[name] for record in records], kind) for name, kind in self._kinds.items()]
        return pyarrow.RecordBatch.from_arrays(columns, schema=self._schema)


def _column(values: list[Any], kind: Any) -> Any:
    import pyarrow

    if kind is not None:
        return to_array(values, kind)
    texts = [None if value is None else encode_json_column(value) for value in values]
    return pyarrow.ExtensionArray.from_storage(pyarrow.json_(), pyarrow.array(texts, pyarrow.string()))
