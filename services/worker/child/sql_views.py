"""Files as views of DuckDB; a directory is one view. What DuckDB can't read exactly is written as a table first."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.contract.task_error import Malformed, TaskError
from services.inputs.columns import Columns, Type, decimal_digits
from services.inputs.csv_dialect import CsvDialect
from services.inputs.lines.files import compression_of, open_file, reading
from services.inputs.lines.json_table import write_json_lines
from services.inputs.lines.records import JsonLines
from services.inputs.names import unique_names
from services.inputs.observed import Observed
from services.inputs.reader import Reader, holds_nothing
from services.inputs.record_size import RECORD_BYTES_MAX
from services.inputs.registry import FOLDERS, FORMATS, load
from services.inputs.sql_file import SqlFile, SqlRows
from services.inputs.table import Layout, Reject, TableWriter, Wanted, observe, write_records
from services.worker.child.readers import detect_format
from services.worker.child.rejects import Rejects

_MODULES = {folder: load(folder, "sql") for folder in FOLDERS}  # now: later, the child can't import ours
_LINE_BYTES_MAX = 2_000_000  # of CSV, by default of DuckDB
_TYPES = {
    "text": "VARCHAR",
    "json": "JSON",
    "bool": "BOOLEAN",
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
}


@dataclass(frozen=True, slots=True)
class Source:
    """The file or directory behind a view, and how its records are read.

    The `format` is by the files' names if None. Types of `declared` columns go before those of `found` ones, which are
    all that the records of the whole input have; if None, they are found from the files.
    """

    path: Path
    format: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    declared: Columns = field(default_factory=dict)
    found: Columns | None = None


@dataclass(slots=True)
class View:
    """A view while it is made, and how its rows are counted: from the footers of Parquet, otherwise by the scan."""

    connection: Any
    directory: Path  # for files that are made on the way
    columns: Columns  # the declared ones
    found: Columns | None
    wanted: Wanted
    rejected: Rejects | None
    checks_values: bool = False
    tables: list[str] = field(default_factory=list)
    rows: int = 0
    files: dict[str, SqlFile] = field(default_factory=dict)  # of CSV, by path

    def add_parquet(self, files: Sequence[Path], columns: str = "*") -> None:
        if files:
            count = f"SELECT sum(num_rows) FROM parquet_file_metadata({_list(files)})"
            self.rows += int(self.connection.execute(count).fetchone()[0])
            self.tables.append(f"SELECT {columns} FROM read_parquet({_list(files)}, union_by_name = true)")

    def add_csv(self, files: Sequence[SqlFile]) -> None:
        """Files with the same columns, in the same dialect."""
        self.files |= {str(file.path): file for file in files}
        columns, dialect = files[0].columns, files[0].dialect
        if columns and dialect:
            self.tables.append(f"FROM {_read_csv(files, columns, dialect, store_rejects=self.rejected is not None)}")

    def add_rows(self, shown: Sequence[SqlRows], columns: Columns, *, text: bool) -> None:
        """Write records as tables with the same columns."""
        layout = Layout.of(columns, self.wanted, text=text)
        files = [self._write(rows, layout) for rows in shown]
        kinds = [(identifier(column.name), sql_type(column.type)) for column in layout.columns]
        casts = [f"{name}::{kind} AS {name}" for name, kind in kinds if "JSON" in kind]
        self.add_parquet(files, f"* REPLACE ({', '.join(casts)})" if casts else "*")

    def reject_rows(self, shown: Sequence[SqlRows]) -> None:
        """Reject what can't be read of records without any column."""
        for reader in (rows.reader for rows in shown):
            reject = self._reject_from(reader.path)
            for number, raw in enumerate(reader.raws(), start=1):
                try:
                    reader.parse(raw)
                except Malformed as error:
                    reject(number, reader.offset(raw), reader.show(raw), str(error))

    def plain(self, file: Path) -> Path:
        """The file, or a decompressed copy of it."""
        with reading(open_file(file)) as text:
            if compression_of(text) is None:
                return file
            copy = self.directory / f"{file.name}.plain"
            with copy.open("wb") as target:
                shutil.copyfileobj(text, target, 1 << 20)
        if self.rejected is not None:
            self.rejected.stand_for(copy, file)
        return copy

    def naming(self, file: Path) -> AbstractContextManager[None]:
        """A TaskError about the file names the object that it is."""
        return self.rejected.naming(file) if self.rejected is not None else _naming(file)

    def _write(self, rows: SqlRows, layout: Layout) -> Path:
        reader = rows.reader
        target = self.directory / f"{reader.path.name}.parquet"
        with self.naming(reader.path), TableWriter(target, layout) as writer:
            if type(reader) is JsonLines:
                write_json_lines(writer, reader, layout, self._reject_from(reader.path))
            else:
                write_records(writer, reader, rows.names, self._reject_from(reader.path))
        return target

    def reject(self, reader: Reader, number: int, raw: Any, reason: str) -> None:
        """Reject record `number` of the reader; in a declared input it raises TaskError (input_invalid)."""
        self._reject_from(reader.path)(number, reader.offset(raw), reader.show(raw), reason)

    def _reject_from(self, path: Path) -> Reject:
        def reject(number: int, offset: int | None, shown: Any, reason: str) -> None:
            if self.rejected is None:
                raise TaskError("input_invalid", f"record {number}: {reason}", retryable=False) from None
            self.rejected.add(path, number, offset, reason, shown)

        return reject


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """A TaskError about a declared input has its path, which the worker knows as an object's."""
    try:
        yield
    except TaskError as error:
        raise TaskError(error.type, f"{file}: {error.message}", retryable=error.retryable) from None


def create_view(
    connection: Any,
    name: str,
    source: Source,
    *,
    spill: Path,
    wanted: Wanted,
    rejected: Rejects | None = None,
    checks_values: bool = False,
) -> View | None:
    """A view of a file, or of a directory's files joined by column name; None if no file has a column.

    With `rejected`, unreadable records go to it or to DuckDB's reject tables; without, they are errors.
    Raises TaskError (input_invalid).
    """
    directory = spill / name
    directory.mkdir(exist_ok=True)
    view = View(connection, directory, source.declared, source.found, wanted, rejected, checks_values)
    files = sorted(source.path.iterdir()) if source.path.is_dir() else [source.path]
    shown = [_show(file, source, view) for file in files if not holds_nothing(file)]
    _add_files(view, [each for each, _ in shown if isinstance(each, SqlFile)])
    for text_fields in (False, True):
        alike = [each for each, format in shown if FORMATS[format].text_fields == text_fields]
        _add_rows(view, source, [each for each in alike if isinstance(each, SqlRows)], text=text_fields)
    if not view.tables:
        return None
    connection.execute(f"CREATE VIEW {identifier(name)} AS {' UNION ALL BY NAME '.join(f'({t})' for t in view.tables)}")
    return view


def _show(file: Path, source: Source, view: View) -> tuple[SqlFile | SqlRows, str]:
    """How DuckDB gets the file's records, and their format."""
    with view.naming(file):
        format = source.format or detect_format(file)
        if format not in FORMATS:
            raise TaskError("input_invalid", f"there is no record format {format!r}", retryable=False)
        return _MODULES[FORMATS[format].folder].show(file, format, source.options, view), format


def _add_files(view: View, files: Sequence[SqlFile]) -> None:
    view.add_parquet([file.path for file in files if file.kind == "parquet"])
    alike: dict[tuple[Any, Any], list[SqlFile]] = {}
    for file in files:
        if file.kind == "csv":
            alike.setdefault((file.columns, file.dialect), []).append(file)
    for group in alike.values():
        view.add_csv(group)


def _add_rows(view: View, source: Source, shown: Sequence[SqlRows], *, text: bool) -> None:
    """With `text`, empty text is NULL, and a column is text if its type is not declared."""
    by_names: dict[tuple[str, ...] | None, list[SqlRows]] = {}
    for rows in shown:
        by_names.setdefault(rows.names, []).append(rows)
    for names, alike in by_names.items():
        if names is not None:
            found: Columns = dict.fromkeys(names, "text")
        else:
            found = source.found if source.found is not None else _observe(view, alike)
            found = dict.fromkeys(found, "text") if text else found
        columns = {**found, **{name: kind for name, kind in source.declared.items() if names is None or name in names}}
        if columns:
            view.add_rows(alike, columns, text=text)
        else:
            view.reject_rows(alike)


def _observe(view: View, shown: Sequence[SqlRows]) -> Columns:
    found = Observed()
    for rows in shown:
        with view.naming(rows.reader.path):
            observe(rows.reader, found)
    return found.columns()


def _read_csv(files: Sequence[SqlFile], columns: Sequence[str], dialect: CsvDialect, *, store_rejects: bool) -> str:
    quote, escape = dialect.quote or "", dialect.escape or dialect.quote or ""
    named = ", ".join(f"{text(column)}: 'VARCHAR'" for column in unique_names(columns))
    paths = [file.path for file in files]
    line_bytes_max = min(RECORD_BYTES_MAX, max(_LINE_BYTES_MAX, *(path.stat().st_size for path in paths)))
    return (
        f"read_csv({_list(paths)}, auto_detect = false, header = {dialect.header}, columns = {{{named}}}, "
        f"delim = {text(dialect.delimiter)}, quote = {text(quote)}, escape = {text(escape)}, compression = 'none', "
        f"max_line_size = {line_bytes_max}, store_rejects = {store_rejects})"
    )


def sql_type(kind: Type) -> str:
    """DuckDB's name of the type."""
    match kind:
        case [element]:
            return f"{sql_type(element)}[]"
        case dict():
            return f"STRUCT({', '.join(f'{identifier(name)} {sql_type(inner)}' for name, inner in kind.items())})"
    digits = decimal_digits(kind)
    return f"DECIMAL({digits[0]}, {digits[1]})" if digits else _TYPES[str(kind)]


def _list(files: Sequence[Path]) -> str:
    return f"[{', '.join(map(text, files))}]"


def text(value: object) -> str:
    """An SQL literal."""
    return "'" + str(value).replace("'", "''") + "'"


def identifier(value: str) -> str:
    """An SQL identifier."""
    return '"' + value.replace('"', '""') + '"'
