"""A DuckDB query of a part: the part is the view `input`, and each declared input is a view with its name.

Columns have the types that are declared or found once for the whole input. DuckDB alone would guess them from each
part, and might guess differently for the next one.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.contract.params import SQL_PARAM
from services.contract.states import RECORD_COUNTS
from services.contract.task_error import Malformed, TaskError
from services.inputs.csv_dialect import CsvDialect
from services.inputs.lines.csv_rows import CsvRows
from services.inputs.table import parse
from services.worker.child.rejects import Rejects
from services.worker.child.sql_columns import find_wanted
from services.worker.child.sql_views import Source, View, create_view, text
from services.worker.child.strict_output import keep_wide_integers, make_json_strict

_MEMORY_SHARE = 0.6  # share of the task's memory; DuckDB does not count all that it uses
_FORMATS = {
    "jsonl": "FORMAT json",
    "csv": "FORMAT csv, HEADER",
    "parquet": "FORMAT parquet",
    "compact": "FORMAT parquet, ROW_GROUP_SIZE 1000000, ROW_GROUP_SIZE_BYTES '128MB'",
}
_VALUE_REFUSED = re.compile(r"Invalid (string encoding|TIME value).* Parquet file|convert Timestamp\(MS\)", re.DOTALL)
_VALID_WHEN_EMPTY = ("jsonl", "csv")
# A query with only these operators in its plan reads all of its input.
_READING_ALL = {
    *("RESULT_COLLECTOR", "COPY_TO_FILE", "BATCH_COPY_TO_FILE", "TABLE_SCAN", "PROJECTION", "FILTER", "ORDER_BY"),
    *("UNGROUPED_AGGREGATE", "HASH_GROUP_BY", "PERFECT_HASH_GROUP_BY"),
}
# A line with several errors has several rows, and each pass over a file has its own scan.
_REJECTS = """
    SELECT file_path, line, line_byte_position, first(error_message)
    FROM reject_errors JOIN reject_scans USING (scan_id, file_id)
    GROUP BY ALL ORDER BY file_path, line_byte_position"""


@dataclass(frozen=True, slots=True)
class Room:
    """The memory and threads that a query may use, and the directory to spill to."""

    memory_bytes: int
    threads: int
    spill: Path


def run_query(
    query: str,
    *,
    input: Source,
    inputs: Mapping[str, Path],
    output: Path,
    output_format: str,
    params: Mapping[str, Any],
    room: Room,
    rejected: Rejects,
    check_input: Callable[[], None],
    checks_values: bool = False,
) -> dict[str, int]:
    """Write the query's rows to the output; returns how many records were read, written, rejected, and so on.

    An input without any column can't be queried: the output is empty, or missing if it would have to be Parquet. A
    record function that returns no record has the same effect.

    `check_input` is called unless DuckDB has read every byte of the input and found each record whole.

    If DuckDB refuses a value of Parquet, which fails the query, it runs again on files without the rows that have such
    values (`checks_values`); these are rejected.

    Raises TaskError: from `check_input`, or with DuckDB's own message for a query or data that it refuses.
    """
    import duckdb

    try:
        with duckdb.connect(config=_settings(room, output_format)) as connection:
            prepared, values = _prepare(connection, query, params)
            wanted = find_wanted(connection, prepared)
            shared: dict[str, Any] = {"spill": room.spill, "wanted": wanted, "checks_values": checks_values}
            view = create_view(connection, "input", input, rejected=rejected, **shared)
            for name, path in inputs.items():
                create_view(connection, name, Source(path), **shared)
            if view is None:
                if output_format in _VALID_WHEN_EMPTY:
                    output.touch()
                counted = {"records_in": rejected.count, "records_rejected": rejected.count}
                return dict.fromkeys(RECORD_COUNTS, 0) | counted
            _lock_up(connection, room, inputs)
            records_out = _copy(connection, prepared, values, output, output_format)
            operators = list(_operators(json.loads(connection.get_profiling_information(format="json"))["operator"]))
            _keep_rejects(connection, rejected, view, int((input.options.get("csv") or {}).get("header", True)))
    except TaskError:
        check_input()
        raise
    except duckdb.Error as error:
        if not checks_values and _VALUE_REFUSED.search(str(error)):
            rejected.begin_again()
            return run_query(
                query,
                input=input,
                inputs=inputs,
                output=output,
                output_format=output_format,
                params=params,
                room=room,
                rejected=rejected,
                check_input=check_input,
                checks_values=True,
            )
        check_input()
        raise _explain(error, rejected.name_objects(str(error), input.path)[:2000]) from None
    if rejected.count or not _sees_torn_records(operators, input.options, room):
        check_input()
    records_in = _count_read(operators, view) + rejected.count
    gone = records_in - rejected.count - records_out
    return {
        "records_in": records_in,
        "records_out": records_out,
        "records_rejected": rejected.count,
        "records_filtered": max(0, gone),
        "records_added": max(0, -gone),
    }


def _settings(room: Room, output_format: str) -> dict[str, Any]:
    room.spill.mkdir(exist_ok=True)
    return {
        "threads": room.threads,
        "memory_limit": f"{int(room.memory_bytes * _MEMORY_SHARE)}B",
        "temp_directory": str(room.spill),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        # Without this, DuckDB makes no row groups by bytes. One thread keeps the order anyway.
        "preserve_insertion_order": output_format != "compact",
    }


def _lock_up(connection: Any, room: Room, inputs: Mapping[str, Path]) -> None:
    """Restrict the query to the task's own files and the declared inputs."""
    connection.execute(f"SET allowed_directories = [{text(room.spill.parent)}]")
    connection.execute(f"SET allowed_paths = [{', '.join(map(text, inputs.values()))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET TimeZone = 'UTC'")  # else the node's: results would depend on where a task runs
    connection.execute("SET enable_profiling = 'no_output'")  # its profile tells how many rows are read
    connection.execute("SET disabled_optimizers = 'type_pushdown'")  # it treats TRY_CAST of CSV as CAST (DuckDB 2.0.1)
    connection.execute("SET lock_configuration = true")


def _prepare(connection: Any, query: str, params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The query with `$NAME` in place of `{params.NAME}`, and their values. Raises TaskError (processor_load)."""
    names = set(SQL_PARAM.findall(query))
    if missing := sorted(names - params.keys()):
        raise _refuse(f"has {{params.{missing[0]}}}, but the stage's params have no {missing[0]!r}: add it to them")
    statements = connection.extract_statements(SQL_PARAM.sub(r"$\1", query))
    if len(statements) != 1 or statements[0].type.name != "SELECT":
        raise _refuse("must be one SELECT")
    (statement,) = statements
    if quoted := sorted(names - statement.named_parameters):
        raise _refuse(f"has {{params.{quoted[0]}}} inside quotes, where no value can stand: write it without")
    if unknown := sorted(statement.named_parameters - params.keys()):
        raise _refuse(f"has ${unknown[0]}, but the stage's params have no {unknown[0]!r}: add it to them")
    return statement.query.rstrip().rstrip(";"), {name: params[name] for name in statement.named_parameters}


def _refuse(what: str) -> TaskError:
    return TaskError("processor_load", f"the query {what}", retryable=False)


def _copy(connection: Any, query: str, values: Mapping[str, Any], output: Path, format: str) -> int:
    """Returns how many rows were written."""
    if format in ("parquet", "compact"):
        query = keep_wide_integers(connection, query, values)
    connection.execute(f"COPY (\n{query}\n) TO {text(output)} ({_FORMATS[format]})", values or None)
    (count,) = connection.fetchone()
    if format == "jsonl":
        make_json_strict(output)
    return int(count)


def _sees_torn_records(operators: Sequence[Mapping[str, Any]], options: Mapping[str, Any], room: Room) -> bool:
    """Whether DuckDB surely rejects a quote that is left open at the end of the input.

    It does not if several threads begin in the middle, where they must guess, or if there are escapes outside quotes.
    """
    if room.threads > 1 or (options.get("csv") or {}).get("escape") is not None:
        return False
    return any(operator["name"] == "READ_CSV" for operator in operators) and all(
        operator["type"] in _READING_ALL for operator in operators
    )


def _count_read(operators: Sequence[Mapping[str, Any]], view: View) -> int:
    """The number of input records that the query has read: for Parquet from the footers, otherwise as scanned."""
    scanned: dict[str, int] = {}
    for operator in operators:
        files = operator.get("extra_info", {}).get("Filename(s)", "")
        if files.split(", ")[0] in view.files:
            scanned[files] = max(scanned.get(files, 0), operator["rows_scanned"])
    return view.rows + sum(scanned.values())


def _operators(nodes: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for node in nodes:
        yield node
        yield from _operators(node.get("children", []))


def _keep_rejects(connection: Any, rejected: Rejects, view: View, header_lines: int) -> None:
    """Reject the lines that the CSV reader could not read, as our own reader sees them."""
    import duckdb

    try:
        connection.execute(_REJECTS)
    except duckdb.CatalogException:  # no CSV was read
        return
    for path, line, position, found in connection.fetchall():
        file = view.files[path]
        offset = _skip_line_end(file.path, position - 1)  # the first byte is 1, as is the first line
        reader = CsvRows(file.path, file.dialect or CsvDialect())
        raw = reader.record_at(offset, file.columns or ())
        place = None if file.compressed else offset
        reason = _reason(reader, raw, file.columns or (), found)
        rejected.add(file.path, line - header_lines, place, reason, reader.show(raw))


def _skip_line_end(path: Path, offset: int) -> int:
    """DuckDB ends a record before CRLF at the CR, so that the next one seems to begin with the LF."""
    with path.open("rb") as file:
        file.seek(offset)
        begin = file.read(2)
    return offset + len(begin) - len(begin.lstrip(b"\r\n"))


def _reason(reader: CsvRows, raw: list[str], columns: Sequence[str], found: str) -> str:
    """What is wrong with a line in which DuckDB found an error."""
    try:
        parse(reader, raw, columns)
    except Malformed as error:
        return str(error)
    return found


def _explain(error: Any, message: str) -> TaskError:
    """DuckDB's error as a TaskError. Only a lack of memory or disk space may pass in another try."""
    import duckdb

    match error:
        case duckdb.OutOfMemoryException():
            return TaskError("memory", message)
        case duckdb.IOException() if "No space left" in message:
            return TaskError("disk_full", message)
    return TaskError("exception", message, retryable=False)
