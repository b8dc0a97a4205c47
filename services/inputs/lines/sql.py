"""CSV and JSON for DuckDB, which reads them itself, except where it would misread them."""

import codecs
import mmap
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from services.contract.task_error import TaskError
from services.inputs.csv_dialect import CsvDialect
from services.inputs.lines.csv_rows import CsvRows
from services.inputs.lines.files import compression_of, open_file
from services.inputs.lines.records import JsonLines
from services.inputs.sql_file import Rewriter, SqlFile


def show(file: Path, format: str, options: Mapping[str, Any], rewriter: Rewriter) -> SqlFile:
    """Raises TaskError (input_invalid) for text, which has no columns."""
    if format not in ("csv", "tsv", "jsonl", "json"):
        raise TaskError("input_invalid", f"SQL does not read {format}: {file.name!r}", retryable=False)
    plain = rewriter.plain(file) if format != "jsonl" else file
    match format:
        case "csv" | "tsv":
            reader = CsvRows(plain, CsvDialect.of_part(options.get("csv"), format))
            columns = _columns(reader)
            if columns and not (reader.names_delimiter or _has_mixed_ends(plain) or _has_marks(plain)):
                return SqlFile(plain, "csv", columns, reader.dialect)
            return rewriter.write_json_lines(reader, columns)
        case "jsonl" if _is_compressed(file) or _has_marks(file):
            return rewriter.write_json_lines(JsonLines(file))
        case "jsonl":
            return SqlFile(file, "jsonl")
    return SqlFile(plain, "json")


def _columns(reader: CsvRows) -> tuple[str, ...]:
    """Without a header they are column0, column1, …"""
    raws: Any = reader.raws()
    with closing(raws):
        first: list[str] = next(raws, [])
    return tuple(reader.columns or (f"column{number}" for number in range(len(first))))


def _is_compressed(file: Path) -> bool:
    with open_file(file) as text:
        return compression_of(text) is not None


def _has_marks(file: Path) -> bool:
    """Whether lines begin with byte order marks, as `cat` leaves them: DuckDB takes them for data."""
    with _bytes_of(file) as data:
        return data.find(b"\n" + codecs.BOM_UTF8) >= 0


def _has_mixed_ends(file: Path) -> bool:
    """Whether the line ends, inside quotes or not, are mixed: DuckDB misreads such files."""
    returns = ends = pairs = 0
    with _bytes_of(file) as data:
        if data.find(b"\r") < 0:
            return False
        while piece := data.read(1 << 20):
            if piece.endswith(b"\r"):
                piece += data.read(1)
            returns += piece.count(b"\r")
            ends += piece.count(b"\n")
            pairs += piece.count(b"\r\n")
    return not returns == ends == pairs


@contextmanager
def _bytes_of(file: Path) -> Iterator[mmap.mmap]:
    """Of a file that is not empty."""
    with file.open("rb") as content, mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data
