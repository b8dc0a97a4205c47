"""Files as views of DuckDB; a directory is one view. Files that DuckDB misreads are converted first."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from services.contract.task_error import TaskError
from services.inputs.csv_dialect import CsvDialect
from services.inputs.lines.files import compression_of, open_file, reading
from services.inputs.reader import Reader, holds_nothing
from services.inputs.registry import FOLDERS, FORMATS, load
from services.inputs.sql_file import SqlFile
from services.worker.child.readers import detect_format
from services.worker.child.rejects import Rejects
from services.worker.child.writers import JsonlWriter

_MODULES = {folder: load(folder, "sql") for folder in FOLDERS}  # now: later, the child can't import ours
_TIMES_AND_IDS = ("date", "time", "timestamp", "uuid")  # types that DuckDB guesses for strings of JSON
_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})

_Alike = tuple[str, tuple[str, ...] | None, CsvDialect | None]  # files that one function reads


@dataclass(frozen=True, slots=True)
class View:
    """What a view reads: the number of rows of its Parquet files, and the files whose rows are counted by the scan."""

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
    """A view of a file, or of a directory's files joined by column name; None if no file has a column.

    With `rejected`, unreadable lines of CSV go to it or to DuckDB's reject tables; without, they are errors.
    Raises TaskError (input_invalid).
    """
    rewriter, groups = _Rewriter(spill, rejected), dict[_Alike, list[Path]]()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if not holds_nothing(file):
            with rejected.naming(file) if rejected else _naming(file):
                found = _show(file, format or detect_format(file), options, rewriter)
            groups.setdefault((found.kind, found.columns, found.dialect), []).append(found.path)
    rows, tables = 0, list[str]()
    for (kind, columns, dialect), files in groups.items():
        if (table := _table(connection, kind, columns, dialect, files, rejected is not None)) is not None:
            tables.append(table)
        if kind == "parquet":
            rows += connection.execute(f"SELECT sum(num_rows) FROM parquet_file_metadata({_list(files)})").fetchone()[0]
    if not tables:
        return None
    connection.execute(f"CREATE VIEW {_name(name)} AS {' UNION ALL BY NAME '.join(f'FROM {t}' for t in tables)}")
    scanned = [str(file) for (kind, *_), files in groups.items() for file in files if kind != "parquet"]
    return View(int(rows), frozenset(scanned))


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """A TaskError about a declared input has its path, which the worker knows as an object's."""
    try:
        yield
    except TaskError as error:
        raise TaskError(error.type, f"{file}: {error.message}", retryable=error.retryable) from None


def _show(file: Path, format: str, options: Mapping[str, Any], rewriter: "_Rewriter") -> SqlFile:
    if format not in FORMATS:
        raise TaskError("input_invalid", f"there is no record format {format!r}", retryable=False)
    shown: SqlFile = _MODULES[FORMATS[format].folder].show(file, format, options, rewriter)
    return shown


class _Rewriter:
    """Records as JSON lines in files that DuckDB reads instead."""

    def __init__(self, directory: Path, rejected: Rejects | None) -> None:
        self.directory = directory
        self._rejected = rejected

    def write_json_lines(self, reader: Reader, columns: Sequence[str] | None = None) -> SqlFile:
        """Empty text of CSV is null, as it is for DuckDB."""
        target = self.directory / f"{reader.path.name}.jsonl"
        with closing(JsonlWriter(target)) as writer:
            for number, raw in enumerate(reader.raws(), start=1):
                try:
                    record = reader.parse(raw)
                    if columns is not None:
                        fields = record.values() if isinstance(record, Mapping) else record
                        record = {name: field or None for name, field in zip(columns, fields, strict=True)}
                    writer.write(record)
                except ValueError as error:  # Malformed; or a number of fields unlike the first line's
                    self._reject(reader, number, raw, str(error))
        return SqlFile(target, "jsonl", None if columns is None else tuple(columns))

    def plain(self, file: Path) -> Path:
        """The file, or a decompressed copy of it."""
        with reading(open_file(file)) as text:
            if compression_of(text) is None:
                return file
            copy = self.directory / f"{file.name}.plain"
            with copy.open("wb") as target:
                shutil.copyfileobj(text, target, 1 << 20)
        if self._rejected is not None:
            self._rejected.stand_for(copy, file)
        return copy

    def _reject(self, reader: Reader, number: int, raw: Any, reason: str) -> None:
        if self._rejected is None:
            message = f"{reader.path.name}: record {number}: {reason}"
            raise TaskError("input_invalid", message, retryable=False) from None
        self._rejected.add(reader.path, number, reader.offset(raw), reason, reader.show(raw))


def _list(files: Sequence[Path]) -> str:
    return f"[{', '.join(map(text, files))}]"


def _table(
    connection: Any,
    kind: str,
    columns: Sequence[str] | None,
    dialect: CsvDialect | None,
    files: Sequence[Path],
    keep_rejects: bool,
) -> str | None:
    """The SQL function that reads the files; None if they have no columns."""
    if kind == "parquet":
        return f"read_parquet({_list(files)}, union_by_name = true)"
    if columns is None:
        return _json(connection, f"{_list(files)}, format = '{'newline_delimited' if kind == 'jsonl' else 'auto'}'")
    if not columns:
        return None
    if dialect is None:
        return f"read_json({_list(files)}, format = 'newline_delimited', columns = {_text(columns)})"
    quote, escape = dialect.quote or "", dialect.escape or dialect.quote or ""
    return (
        f"read_csv({_list(files)}, auto_detect = false, header = {dialect.header}, columns = {_text(columns)}, "
        f"delim = {text(dialect.delimiter)}, quote = {text(quote)}, escape = {text(escape)}, "
        f"store_rejects = {keep_rejects})"
    )


def _text(columns: Sequence[str]) -> str:
    """All columns as text."""
    named = ", ".join(f"{text(column)}: 'VARCHAR'" for column in columns)
    return f"{{{named}}}"


def _json(connection: Any, source: str) -> str | None:
    """Reads all of the files first, so that rare fields are found too. None if there is no record."""
    guess = "sample_size = -1, map_inference_threshold = -1, field_appearance_threshold = 0, union_by_name = true"
    found = connection.sql(f"FROM read_json({source}, {guess})")
    if found.columns == ["json"] and not found.limit(1).fetchall():  # as DuckDB names it without a record
        return None
    columns = zip(found.columns, found.types, strict=True)
    named = ", ".join(f"{text(column)}: {text(_without_guesses(kind))}" for column, kind in columns)
    return f"read_json({source}, columns = {{{named}}})"


def _without_guesses(kind: Any) -> str:
    """The type, with text in place of the times and identifiers that DuckDB guesses."""
    if kind.id == "struct":
        return f"STRUCT({', '.join(f'{_name(name)} {_without_guesses(inner)}' for name, inner in kind.children)})"
    if kind.id == "list":
        return f"{_without_guesses(kind.children[0][1])}[]"
    return "VARCHAR" if kind.id.startswith(_TIMES_AND_IDS) else str(kind)
