"""Files as views of DuckDB; a directory of files is one view. What DuckDB can't read right is made readable before."""

import mmap
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from services.contract.task_error import TaskError
from services.inputs.arrow.read import write_as_parquet
from services.inputs.csv_dialect import CsvDialect
from services.worker.child.readers import detect_format, holds_nothing, open_reader
from services.worker.child.rejects import Rejects
from services.worker.child.writers import JsonlWriter

_COMPRESSED = (".gz", ".zst")
_FOREIGN = (".bgz", ".bz2", ".xz")  # compressions that DuckDB does not know
_TIMES_AND_IDS = ("date", "time", "timestamp", "uuid")  # what DuckDB takes strings of JSON for
_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class View:
    """What a view reads: the rows of its Parquet files, and the files whose rows are counted when they are scanned."""

    rows: int
    scanned: frozenset[str]


def text(value: object) -> str:
    """An SQL literal."""
    return "'" + str(value).replace("'", "''") + "'"


def _name(value: str) -> str:
    """An SQL identifier."""
    return '"' + value.replace('"', '""') + '"'


def create_view(
    connection: Any,
    name: str,
    path: Path,
    format: str | None = None,
    options: Mapping[str, Any] = _NO_OPTIONS,
    *,
    spill: Path,
    rejected: Rejects | None = None,
) -> View | None:
    """A view of a file, or of a directory's files by the names of their columns; None if nothing tells of any column.

    With `rejected`, lines of CSV that can't be read go to it or to DuckDB's reject tables; else they are errors.
    Raises TaskError (input_invalid).
    """
    groups: dict[tuple[str, tuple[str, ...]], list[Path]] = {}  # files that one function reads: alike in their columns
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if not holds_nothing(file):
            kind, columns, readable = _make_readable(file, format or detect_format(file), options, spill, rejected)
            groups.setdefault((kind, columns), []).append(readable)
    rows, tables = 0, list[str]()
    for (kind, columns), files in groups.items():
        if (table := _table(connection, kind, columns, files, options, rejected is not None)) is not None:
            tables.append(table)
        if kind == "parquet":
            rows += connection.execute(f"SELECT sum(num_rows) FROM parquet_file_metadata({_list(files)})").fetchone()[0]
    if not tables:
        return None
    connection.execute(f"CREATE VIEW {_name(name)} AS {' UNION ALL BY NAME '.join(f'FROM {t}' for t in tables)}")
    scanned = [str(file) for (kind, _), files in groups.items() for file in files if kind != "parquet"]
    return View(int(rows), frozenset(scanned))


def _list(files: Sequence[Path]) -> str:
    return f"[{', '.join(map(text, files))}]"


def _table(
    connection: Any,
    kind: str,
    columns: Sequence[str],
    files: Sequence[Path],
    options: Mapping[str, Any],
    keep_rejects: bool,
) -> str | None:
    """The function that reads the files; None if nothing in them tells of any column."""
    match kind:
        case "parquet":
            return f"read_parquet({_list(files)}, union_by_name = true)"
        case "csv" | "tsv" | "text" if not columns:
            return None
        case "csv" | "tsv":
            dialect = CsvDialect.of_part(options.get("csv"), kind)
            quote, escape = dialect.quote or "", dialect.escape or dialect.quote or ""
            return (
                f"read_csv({_list(files)}, auto_detect = false, header = {dialect.header}, columns = {_text(columns)}, "
                f"delim = {text(dialect.delimiter)}, quote = {text(quote)}, escape = {text(escape)}, "
                f"store_rejects = {keep_rejects})"
            )
        case "text":
            return f"read_json({_list(files)}, format = 'newline_delimited', columns = {_text(columns)})"
        case _:
            return _json(connection, f"{_list(files)}, format = '{'newline_delimited' if kind == 'jsonl' else 'auto'}'")


def _text(columns: Sequence[str]) -> str:
    """All of them text."""
    named = ", ".join(f"{text(column)}: 'VARCHAR'" for column in columns)
    return f"{{{named}}}"


def _json(connection: Any, source: str) -> str | None:
    """All of the files is read first, so that a field that is rare is known, too; None if there is no record."""
    guess = "sample_size = -1, map_inference_threshold = -1, field_appearance_threshold = 0, union_by_name = true"
    found = connection.sql(f"FROM read_json({source}, {guess})")
    if found.columns == ["json"] and not found.limit(1).fetchall():  # so DuckDB calls it when nothing is there
        return None
    columns = zip(found.columns, found.types, strict=True)
    named = ", ".join(f"{text(column)}: {text(_without_guesses(kind))}" for column, kind in columns)
    return f"read_json({source}, columns = {{{named}}})"


def _without_guesses(kind: Any) -> str:
    """The type, but text for what DuckDB takes for times and identifiers."""
    if kind.id == "struct":
        return f"STRUCT({', '.join(f'{_name(name)} {_without_guesses(inner)}' for name, inner in kind.children)})"
    if kind.id == "list":
        return f"{_without_guesses(kind.children[0][1])}[]"
    return "VARCHAR" if kind.id.startswith(_TIMES_AND_IDS) else str(kind)


def _make_readable(
    file: Path, kind: str, options: Mapping[str, Any], spill: Path, rejected: Rejects | None
) -> tuple[str, tuple[str, ...], Path]:
    """The file's kind and, of CSV, its columns; and the file itself, or one that DuckDB can read in its place."""
    rewritten, foreign = spill / f"{file.name}.jsonl", file.suffix.lower() in _FOREIGN
    match kind:
        case "csv" | "tsv":
            columns = _columns(file, kind, options)
            if not foreign and not _has_mixed_ends(file):
                return kind, columns, file
            return "text", columns, _rewrite(file, kind, options, columns, rewritten, rejected)
        case "arrow":
            return "parquet", (), write_as_parquet(file, spill / f"{file.name}.parquet")
        case "avro":
            return "jsonl", (), _rewrite(file, kind, options, (), rewritten, rejected)
        case "jsonl" | "json" if foreign:
            return "jsonl", (), _rewrite(file, kind, options, (), rewritten, rejected)
        case "jsonl" | "json" | "parquet":
            return kind, (), file
    raise TaskError("input_invalid", f"SQL does not read {kind}: {file.name!r}", retryable=False)


def _columns(file: Path, kind: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Without a header they are column0, column1, …"""
    reader: Any = open_reader(file, kind, **options)
    with closing(reader.raws()) as raws:
        first: list[str] = next(raws, [])
    return tuple(reader.columns or (f"column{number}" for number in range(len(first))))


def _has_mixed_ends(file: Path) -> bool:
    """Whether not all line ends, within quotes or not, are alike: DuckDB does not read these right.

    Of a compressed file nobody knows: where DuckDB can't go on, the task fails.
    """
    if file.suffix.lower() in _COMPRESSED:
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


def _rewrite(
    file: Path,
    kind: str,
    options: Mapping[str, Any],
    columns: Sequence[str],
    target: Path,
    rejected: Rejects | None,
) -> Path:
    """The records as JSON lines, by the readers of record functions. As for DuckDB, empty text of CSV is null."""
    reader = open_reader(file, kind, **options)
    with closing(JsonlWriter(target)) as writer:
        for number, raw in enumerate(reader.raws(), start=1):
            try:
                record = reader.parse(raw)
                if columns:
                    fields = record.values() if isinstance(record, Mapping) else record
                    record = {name: field or None for name, field in zip(columns, fields, strict=True)}
                writer.write(record)
            except ValueError as error:  # Malformed; or, without a header, not as many fields as the first line has
                if rejected is None:
                    message = f"{file.name}: record {number}: {error}"
                    raise TaskError("input_invalid", message, retryable=False) from None
                rejected.add(file, number, reader.offset(raw), str(error), reader.show(raw))
    return target
