"""A reader's records with the values of declared columns converted to their types."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.contract.task_error import TaskError
from services.inputs.columns import Columns, Convert, Type, convert_field, from_json, from_text
from services.inputs.json_text import parse_json
from services.inputs.reader import Reader


class TypedReader:
    """Reads as the reader within does; a value that does not fit its column's type makes its record unreadable.

    A field that a record of JSON lacks stays away.
    """

    def __init__(self, reader: Reader, columns: Columns, *, text: bool) -> None:
        self.path: Path = reader.path
        self.raws, self.show, self.offset = reader.raws, reader.show, reader.offset
        self._parse = reader.parse
        self._converts = {name: _convert(kind, text) for name, kind in columns.items()}

    def parse(self, raw: Any) -> Any:
        """Raises Malformed, and TaskError (input_invalid) for records without names."""
        record = self._parse(raw)
        if not isinstance(record, Mapping):
            message = f"`columns` are declared, but the records of {self.path.name!r} have no names: leave it out"
            raise TaskError("input_invalid", message, retryable=False)
        return {name: self._converted(name, value) for name, value in record.items()}

    def _converted(self, name: str, value: Any) -> Any:
        convert = self._converts.get(name)
        return value if convert is None else convert_field(name, convert, value)


def _convert(kind: Type, text: bool) -> Convert:
    """A column of type json keeps its values, but text is read as JSON."""
    if kind == "json":
        return _read_json if text else _keep
    return from_text(kind) if text else from_json(kind)


def _keep(value: Any) -> Any:
    return value


def _read_json(value: Any) -> Any:
    return None if value == "" else parse_json(value.encode()) if isinstance(value, str) else value
