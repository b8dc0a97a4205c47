"""CSV and JSON for DuckDB. It reads CSV itself where it reads it as our reader does; JSON is written as a table."""

import codecs
import mmap
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from services.contract.task_error import Malformed, TaskError
from services.inputs.csv_dialect import CsvDialect
from services.inputs.json_text import encode_json, parse_json
from services.inputs.lines.csv_rows import CsvRows
from services.inputs.lines.records import JsonDocument, JsonLines
from services.inputs.record_size import RECORD_BYTES_MAX
from services.inputs.sql_file import SqlFile, SqlRows, View
from services.inputs.typed_reader import check_declared

_PIECE_BYTES = 1 << 20


def show(file: Path, format: str, options: Mapping[str, Any], view: View) -> SqlFile | SqlRows:
    """Raises TaskError (input_invalid) for text, which has no columns."""
    match format:
        case "csv" | "tsv":
            return _show_csv(file, CsvDialect.of_part(options.get("csv"), format), view)
        case "jsonl":
            return SqlRows(JsonLines(file))
        case "json":
            return SqlRows(_JsonRows(file))
    raise TaskError("input_invalid", f"SQL does not read {format}: {file.name!r}", retryable=False)


class _JsonRows(JsonDocument):
    """The elements of a document that is a list are a row each."""

    is_one_record = False

    def raws(self) -> Iterator[bytes]:
        for raw in super().raws():
            try:
                value = parse_json(raw)
            except Malformed:
                yield raw
            else:
                yield from map(encode_json, value) if isinstance(value, list) else (raw,)


def _show_csv(file: Path, dialect: CsvDialect, view: View) -> SqlFile | SqlRows:
    reader = CsvRows(file, dialect)
    names = _names(reader) if dialect.header or not view.found else tuple(view.found)
    if names:
        check_declared(view.columns, names)
    if not (view.columns.keys() & set(names) or reader.names_delimiter):
        plain = view.plain(file)
        if _reads_alike(plain, dialect, len(names)):
            return SqlFile(plain, "csv", names, dialect, compressed=plain != file)
    return SqlRows(reader, names)


def _names(reader: CsvRows) -> tuple[str, ...]:
    """Without a header they are column0, column1, …"""
    raws: Any = reader.raws()
    with closing(raws):
        first: list[str] = next(raws, [])
    return tuple(reader.columns or (f"column{number}" for number in range(len(first))))


def _reads_alike(file: Path, dialect: CsvDialect, columns: int) -> bool:
    """Whether DuckDB surely finds the records in the CSV that our reader finds.

    It takes other line ends than the first one for text, blanks before a quote and text behind one for something else,
    an escape for one inside quotes only, counts blank lines, and takes a row with one empty field too many.
    """
    if dialect.escape is not None:
        return False
    if file.stat().st_size == 0:
        return True
    with file.open("rb") as content, mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return (
            data.find(codecs.BOM_UTF8, 1) < 0
            and data.find(b"\0") < 0
            and _is_utf8(data)
            and not _has_long_lines(data)
            and not _has_mixed_ends(data)
            and _has_plain_quotes(data, dialect)
            and not _has_blank_lines(data, dialect)
            and not _has_long_rows(data, dialect, columns)
        )


def _is_utf8(data: mmap.mmap) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for at in range(0, len(data), _PIECE_BYTES):
            decoder.decode(data[at : at + _PIECE_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _has_long_lines(data: mmap.mmap) -> bool:
    """Whether a line is longer than a record may be, for which DuckDB would take memory."""
    at = 0
    while len(data) - at > RECORD_BYTES_MAX:
        end = data.rfind(b"\n", at, at + RECORD_BYTES_MAX) + 1
        if not end:
            return True
        at = end
    return False


def _has_mixed_ends(data: mmap.mmap) -> bool:
    """Whether the line ends, inside quotes or not, are of more than one kind."""
    if data.find(b"\r") < 0:
        return False
    returns = ends = pairs = 0
    before = b""
    for at in range(0, len(data), _PIECE_BYTES):
        piece = data[at : at + _PIECE_BYTES]
        returns += piece.count(b"\r")
        ends += piece.count(b"\n")
        pairs += piece.count(b"\r\n") + (before == b"\r" and piece.startswith(b"\n"))
        before = piece[-1:]
    return not returns == ends == pairs


def _has_plain_quotes(data: mmap.mmap, dialect: CsvDialect) -> bool:
    """Whether each quote opens a field at its start, closes it at its end, or is doubled within one."""
    if dialect.quote is None or data.find(dialect.quote.encode()) < 0:
        return True
    quote, delimiter = re.escape(dialect.quote.encode()), re.escape(dialect.delimiter.encode())
    run = b"[^" + quote + b"]*+"
    field = b"(?<![^" + delimiter + rb"\n])" + quote + run + b"(?:" + quote * 2 + run + b")*+" + quote
    whole = re.compile(run + b"(?:" + field + rb"(?=[\r\n" + delimiter + rb"]|\Z)" + run + b")*+", re.DOTALL)
    found = whole.match(data)
    return found is not None and found.end() == len(data)


def _has_blank_lines(data: mmap.mmap, dialect: CsvDialect) -> bool:
    """Whether there are any outside of quotes, which are plain."""
    quotes = at = 0
    for blank in re.finditer(rb"(?:\A|(?<=\n))\r?\n", data):
        if dialect.quote is not None:
            quotes += data[at : blank.start()].count(dialect.quote.encode())
            at = blank.start()
        if quotes % 2 == 0:
            return True
    return False


def _has_long_rows(data: mmap.mmap, dialect: CsvDialect, columns: int) -> bool:
    """Whether a line that ends with an empty field may have more fields than there are columns."""
    delimiter, quote = dialect.delimiter.encode(), (dialect.quote or "").encode()
    empty = b"(?:" + re.escape(quote) * 2 + b")?" if quote else b""
    for found in re.finditer(re.escape(delimiter) + empty + rb"\r?(?:\n|\Z)", data):
        line = data[data.rfind(b"\n", 0, found.start()) + 1 : found.end()]
        if line.count(delimiter) >= columns or (quote and line.count(quote) % 2):  # the row began on a line before
            return True
    return False
