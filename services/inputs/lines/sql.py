"""CSV and JSON for DuckDB, which reads them itself, except where it would misread them."""

import mmap
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from services.contract.task_error import TaskError
from services.inputs import registry
from services.inputs.csv_dialect import CsvDialect
from services.inputs.lines.csv_rows import CsvRows
from services.inputs.lines.records import JsonDocument, JsonLines
from services.inputs.sql_file import Rewriter, SqlFile

_DECOMPRESSED_BY_DUCKDB = ("", ".gz", ".zst")


def show(file: Path, format: str, options: Mapping[str, Any], rewriter: Rewriter) -> SqlFile:
    """Raises TaskError (input_invalid) for text, which has no columns."""
    readable = registry.compression_suffix(file.name) in _DECOMPRESSED_BY_DUCKDB
    match format:
        case "csv" | "tsv":
            reader = CsvRows(file, CsvDialect.of_part(options.get("csv"), format))
            columns = _columns(reader)
            if readable and not _has_mixed_ends(file):
                return SqlFile(file, "csv", columns, reader.dialect)
            return rewriter.write_json_lines(reader, columns)
        case "jsonl" if readable:
            return SqlFile(file, "jsonl")
        case "json" if readable:
            return SqlFile(file, "json")
        case "jsonl":
            return rewriter.write_json_lines(JsonLines(file))
        case "json":
            return rewriter.write_json_lines(JsonDocument(file))
    raise TaskError("input_invalid", f"SQL does not read {format}: {file.name!r}", retryable=False)


def _columns(reader: CsvRows) -> tuple[str, ...]:
    """Without a header they are column0, column1, …"""
    raws: Any = reader.raws()
    with closing(raws):
        first: list[str] = next(raws, [])
    return tuple(reader.columns or (f"column{number}" for number in range(len(first))))


def _has_mixed_ends(file: Path) -> bool:
    """Whether the line ends, inside quotes or not, are mixed: DuckDB misreads such files.

    This is unknown for a compressed file: if DuckDB can't read it, the task fails.
    """
    if registry.compression_suffix(file.name):
        return False
    returns = ends = pairs = 0
    with file.open("rb") as content, mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(b"\r") < 0:
            return False
        while piece := data.read(1 << 20):
            if piece.endswith(b"\r"):
                piece += data.read(1)
            returns += piece.count(b"\r")
            ends += piece.count(b"\n")
            pairs += piece.count(b"\r\n")
    return not returns == ends == pairs
