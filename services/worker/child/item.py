"""What a function processor gets of a task's file: values, whatever the file's format is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.contract.task_error import Malformed, TaskError
from services.inputs.columns import Columns
from services.inputs.json_text import parse_json
from services.inputs.reader import holds_nothing
from services.worker.child.records import open_records


def read_item(input: Path, format: str | None, options: Mapping[str, Any], columns: Columns) -> Any:
    """A JSON document is its value, any other file the list of its records; so a value is the same in a row and in an
    object. A directory is the list of the values or records of its files, in order.

    Raises TaskError (input_invalid).
    """
    if not input.is_dir():
        return _read_value(input) if _is_document(input, format) else _read_records(input, format, options, columns)
    item: list[Any] = []
    for path in sorted(input.iterdir()):
        if _is_document(path, format):
            item.append(_read_value(path))
        else:
            item += _read_records(path, format, options, columns)
    return item


def _is_document(path: Path, format: str | None) -> bool:
    return format is None and path.suffix == ".json"


def _read_value(path: Path) -> Any:
    if holds_nothing(path):
        return None
    try:
        return parse_json(path.read_bytes())
    except Malformed as error:
        raise TaskError("input_invalid", f"{path.name} is {error}", retryable=False) from None


def _read_records(path: Path, format: str | None, options: Mapping[str, Any], columns: Columns) -> list[Any]:
    if holds_nothing(path):
        return []
    reader, records = open_records(path, format, options, columns), []
    for raw in reader.raws():
        try:
            records.append(reader.parse(raw))
        except Malformed as error:
            message = f"record {len(records) + 1} of {path.name}: {error}"
            raise TaskError("input_invalid", message, retryable=False) from None
    return records
