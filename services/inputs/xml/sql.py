"""XML for DuckDB: each attribute and child of a record becomes a column of text, whatever its shape."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.contract.task_error import TaskError
from services.inputs.sql_file import Rewriter, SqlFile
from services.inputs.xml.read import XmlRecords, open_reader


def show(file: Path, format: str, options: Mapping[str, Any], rewriter: Rewriter) -> SqlFile:
    """A dict or list becomes its JSON text. Raises TaskError (input_invalid)."""
    reader = _Rows(open_reader(file, format, options))
    shown = rewriter.write_json_lines(reader)
    columns = dict[str, str]()
    for name in reader.names:
        if (other := columns.setdefault(name.casefold(), name)) != name:
            message = f"{file.name}: {other!r} and {name!r} are one column to SQL, which does not tell a from A"
            raise TaskError("input_invalid", message, retryable=False)
    return replace(shown, columns=tuple(reader.names))


class _Rows:
    """Passes records on and collects their names; as with CSV, empty text is null."""

    def __init__(self, records: XmlRecords) -> None:
        self.names: dict[str, None] = {}
        self.path, self.raws, self.show, self.offset = records.path, records.raws, records.show, records.offset
        self._parse = records.parse

    def parse(self, raw: bytes) -> dict[str, Any]:
        record = self._parse(raw)
        self.names.update(dict.fromkeys(record))
        return {name: value or None for name, value in record.items()}
