"""A reader's records with the values of declared columns converted to their types."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.contract.task_error import Malformed, TaskError
from services.inputs.columns import Columns, Convert, Type, convert_field, from_json, from_text
from services.inputs.json_text import parse_json
from services.inputs.lines.csv_rows import CsvRows
from services.inputs.reader import Reader


class TypedReader:
    """Reads as the reader within does; a value that does not fit its column's type makes its record unreadable.

    A field that a record of JSON lacks stays away.
    """

    def __init__(self, reader: Reader, columns: Columns, *, text: bool) -> None:
        self._reader = reader
        self._columns = columns
        self.path: Path = reader.path
        self.raws, self.show, self.offset = reader.raws, reader.show, reader.offset
        self._parse = reader.parse
        self._converts = {name: _convert(kind, text) for name, kind in columns.items()}

    def parse(self, raw: Any) -> Any:
        """Raises Malformed, and TaskError (input_invalid) for a CSV that lacks a column."""
        record = self._parse(raw)
        if not isinstance(record, Mapping):
            raise Malformed("the record has no names, of which `columns` declares types")
        if isinstance(self._reader, CsvRows):
            check_declared(self._columns, self._reader.columns)
        return {name: self._converted(name, value) for name, value in record.items()}

    def _converted(self, name: str, value: Any) -> Any:
        convert = self._converts.get(name)
        return value if convert is None else convert_field(name, convert, value)


def check_declared(columns: Columns, names: Sequence[str]) -> None:
    """Raises TaskError (input_invalid) if a CSV with these names lacks a declared column."""
    if missing := [name for name in columns if name not in names]:
        message = f"`columns` declares {missing[0]!r}, but the CSV header names {', '.join(map(repr, names[:20]))}"
        raise TaskError("input_invalid", message, retryable=False)


def _convert(kind: Type, text: bool) -> Convert:
    """A column of type json keeps its values, but text is read as JSON."""
    if kind == "json":
        return _read_json if text else _keep
    return from_text(kind) if text else from_json(kind)


def _keep(value: Any) -> Any:
    return value


def _read_json(value: Any) -> Any:
    return None if value == "" else parse_json(value.encode()) if isinstance(value, str) else value
