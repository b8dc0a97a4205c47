"""Nasty tables, whole and cut: by records and by SQL the same rows, or the same rejects, wherever a file is cut.

What is right is worked out here, value by value, from the numbers and bytes that are stored, without the readers. A few
examples run in CI; more of them: COLUMNAR_EXAMPLES=5000 pytest tests/unit/inputs/test_columnar_properties.py
"""

import io
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import fastavro
import pyarrow
import pyarrow.ipc
import pyarrow.orc
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.contract.task_error import Malformed
from services.inputs.arrow.read import extract
from services.inputs.avro.header import HEADER
from services.inputs.json_text import encode_json
from services.inputs.orc import tail as orc_tail
from services.inputs.parquet import tail as parquet_tail
from services.inputs.parquet.footer import MAGIC, footer_bytes
from services.worker.child.readers import open_reader
from services.worker.child.rejects import Rejects
from services.worker.child.sql import Room, run_query
from services.worker.child.sql_views import Source

EXAMPLES = int(os.environ.get("COLUMNAR_EXAMPLES", "0"))
PARTS = (1, 2, 7, 50)


class Reject(Exception):
    """The row must be rejected."""


@dataclass(frozen=True)
class Column:
    """A kind of column: the values to store, and what a result of JSON then has."""

    kind: Any
    stored: st.SearchStrategy[Any]
    storage: Any  # the type of what is stored
    shown: Callable[[Any], Any]
    avro: Any = None  # the type in Avro, if it can be stored there, and that of the values to store
    avro_plain: Any = None
    by_sql: Callable[[Any], Any] | None = None  # what a result of SQL has, if it is not the same
    wider_in_sql: bool = False  # DuckDB has days and moments beyond the year 9999
    orc: bool = True


def moment(micros: int, nanos: int = 0) -> str:
    try:
        text = (datetime(1970, 1, 1) + timedelta(microseconds=micros)).isoformat(timespec="auto")
    except OverflowError:
        raise Reject from None
    return f"{text if '.' in text else text + '.000000'}{nanos:03}" if nanos else text


def day(days: int) -> str:
    try:
        return (date(1970, 1, 1) + timedelta(days=days)).isoformat()
    except OverflowError:
        raise Reject from None


def text(stored: bytes) -> str:
    try:
        return stored.decode()
    except UnicodeDecodeError:
        raise Reject from None


def clock(micros: int) -> str:
    if not 0 <= micros < 86_400_000_000:
        raise Reject
    return (datetime.min + timedelta(microseconds=micros)).time().isoformat()


def number(value: float) -> float:
    if value != value or abs(value) == float("inf"):
        raise Reject
    return value


def named_number(value: float) -> Any:
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(str(value), value)


INT, LONG = pyarrow.int32(), pyarrow.int64()
longs = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([2**53 + 1, -(2**63), 2**63 - 1])
days = st.integers(-800_000, 3_000_000) | st.sampled_from([2_932_896, 2_932_897, -719_162, -719_163])
micros = st.integers(-63_000_000_000_000_000, 253_402_300_800_000_000) | st.sampled_from([253_402_300_799_999_999, 0])
words = st.binary(max_size=4) | st.text(max_size=3).map(str.encode) | st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\0"])
cents = st.decimals(-(10**17), 10**17, places=2, allow_nan=False, allow_infinity=False)
floats = st.floats() | st.sampled_from([float("nan"), float("inf"), -0.0])

KINDS: dict[str, Column] = {
    "long": Column(LONG, longs, LONG, lambda v: v, "long", "long"),
    "text": Column(pyarrow.string(), words, pyarrow.binary(), text, "string", "bytes"),
    "day": Column(pyarrow.date32(), days, INT, day, {"type": "int", "logicalType": "date"}, "int", wider_in_sql=True),
    "micros": Column(
        pyarrow.timestamp("us"),
        micros,
        LONG,
        moment,
        {"type": "long", "logicalType": "local-timestamp-micros"},
        "long",
        wider_in_sql=True,
        orc=False,  # pyarrow has nanoseconds there
    ),
    "nanos": Column(
        pyarrow.timestamp("ns"),
        st.integers(-(2**63) + 2, 2**63 - 2),  # DuckDB takes the first and the last one for infinity
        LONG,
        lambda v: moment(v // 1000, v % 1000),
        {"type": "long", "logicalType": "local-timestamp-nanos"},
        "long",
    ),
    "clock": Column(
        pyarrow.time64("us"),
        st.integers(0, 86_399_999_999) | st.sampled_from([-5, 86_400_000_001]),
        LONG,
        clock,
        {"type": "long", "logicalType": "time-micros"},
        "long",
        orc=False,
    ),
    "cents": Column(pyarrow.decimal128(20, 2), cents, pyarrow.decimal128(20, 2), str, by_sql=str),
    "float": Column(pyarrow.float64(), floats, pyarrow.float64(), number, "double", "double", by_sql=named_number),
}
Table = tuple[list[str], list[tuple[Any, ...]]]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Names of kinds, and rows of what is stored for each; nulls too."""
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=3, unique=True))
    row = st.tuples(*(st.none() | KINDS[kind].stored for kind in kinds))
    return kinds, draw(st.lists(row, min_size=1, max_size=60))


def arrow_table(table: Table) -> Any:
    kinds, rows = table
    columns = {"id": pyarrow.array(range(len(rows)), INT)}
    for position, kind in enumerate(kinds):
        column = KINDS[kind]
        array = pyarrow.array([row[position] for row in rows], column.storage)
        columns[kind] = array if column.storage.equals(column.kind) else array.view(column.kind)
    return pyarrow.table(columns)


def cut_parquet(table: Table, parts: int) -> list[bytes]:
    sink, rows = io.BytesIO(), len(table[1])
    pyarrow.parquet.write_table(arrow_table(table), sink, row_group_size=max(1, rows // parts))
    data = sink.getvalue()
    found = parquet_tail.parse_tail("s3://b/k", data[-footer_bytes("s3://b/k", data, len(data)) :])
    pieces = []
    for group in map(found.row_group, range(len(found.row_groups))):
        body = data[group.start : group.end]
        pieces.append(MAGIC + body + parquet_tail.make_tail(found, [(group, len(MAGIC) - group.start)]))
    return pieces


def cut_arrow(table: Table, parts: int) -> list[bytes]:
    whole = arrow_table(table)
    with tempfile.TemporaryDirectory() as directory:
        source, part = Path(directory, "source"), Path(directory, "part")
        with pyarrow.ipc.new_file(str(source), whole.schema) as writer:
            writer.write_table(whole, max_chunksize=max(1, whole.num_rows // parts))
        pieces = []
        with pyarrow.ipc.open_file(str(source)) as reader:
            count = reader.num_record_batches
        for number in range(count):
            extract(part, source=str(source), numbers=[number])
            pieces.append(part.read_bytes())
    return pieces


def cut_orc(table: Table, parts: int) -> list[bytes]:
    sink = io.BytesIO()
    with pyarrow.orc.ORCWriter(sink) as writer:
        writer.write(arrow_table(table))
    data = sink.getvalue()
    length = orc_tail.footer_bytes("s3://b/k", data, len(data))
    found = orc_tail.parse_tail("s3://b/k", data[-length:], len(data))
    pieces = []
    for stripe in found.stripes:
        tail = orc_tail.make_tail(found, [stripe], len(orc_tail.MAGIC) - stripe.start)
        pieces.append(orc_tail.MAGIC + data[stripe.start : stripe.end] + tail)
    return pieces


def cut_avro(table: Table, parts: int) -> list[bytes]:
    kinds, rows = table

    def schema(types: list[Any]) -> dict[str, Any]:
        fields = [{"name": kind, "type": ["null", type]} for kind, type in zip(kinds, types, strict=True)]
        return {"type": "record", "name": "r", "fields": [{"name": "id", "type": "int"}, *fields]}

    sink = io.BytesIO()
    records = [{"id": number, **dict(zip(kinds, row, strict=True))} for number, row in enumerate(rows)]
    fastavro.writer(
        sink, schema([KINDS[kind].avro_plain for kind in kinds]), records, sync_interval=1 if parts > 1 else 10**6
    )
    data = sink.getvalue()
    source, header = io.BytesIO(data), io.BytesIO()
    parsed: Any = fastavro.schemaless_reader(source, HEADER, None)
    parsed["meta"]["avro.schema"] = json.dumps(schema([KINDS[kind].avro for kind in kinds])).encode()
    fastavro.schemaless_writer(header, HEADER, parsed)
    blocks = [block + data[-16:] for block in data[source.tell() :].split(data[-16:])[:-1]]
    size = -(-len(blocks) // parts)
    groups = [blocks[start : start + size] for start in range(0, len(blocks), size)]
    return [header.getvalue() + b"".join(group) for group in groups]


CUTS: dict[str, Callable[[Table, int], list[bytes]]] = {
    "parquet": cut_parquet,
    "arrow": cut_arrow,
    "orc": cut_orc,
    "avro": cut_avro,
}


def expected(table: Table, show: Callable[[Column, Any], Any]) -> tuple[list[dict[str, Any]], set[int]]:
    """The rows of the result, and the ids of the rejects."""
    kinds, rows = table
    good, bad = [], set()
    for number, row in enumerate(rows):
        try:
            shown = [
                None if value is None else show(KINDS[kind], value) for kind, value in zip(kinds, row, strict=True)
            ]
            good.append({"id": number, **dict(zip(kinds, shown, strict=True))})
        except Reject:
            bad.add(number)
    return good, bad


def by_records(files: list[Path]) -> tuple[list[dict[str, Any]], set[int]]:
    good, bad = [], set()
    for file in files:
        reader = open_reader(file)
        for raw in reader.raws():
            try:
                record = json.loads(encode_json(reader.parse(raw)), parse_float=str)
                good.append({name: float(text) if name == "float" and text else text for name, text in record.items()})
            except Malformed:
                bad.add(reader.show(raw)["id"])
    return good, bad


def by_sql(directory: Path, files: Path) -> tuple[list[dict[str, Any]], set[int]]:
    rejects, output = directory / "rejects.jsonl", directory / "output"
    rejects.unlink(missing_ok=True)
    with Rejects(rejects, None, {"stage": 0, "index": 0, "sources": {}}) as rejected:
        run_query(
            "SELECT * FROM input ORDER BY id",
            input=Source(files),
            inputs={},
            output=output,
            output_format="jsonl",
            params={},
            room=Room(1 << 29, 1, Path(tempfile.mkdtemp(dir=directory))),
            rejected=rejected,
            check_input=lambda: None,
        )
    lines = rejects.read_bytes().splitlines() if rejects.exists() else []
    found = [json.loads(line, parse_float=str) for line in output.read_bytes().splitlines()]
    return found, {json.loads(line)["record"]["id"] for line in lines}


def shown_by_sql(format: str, column: Column, value: Any) -> Any:
    """Ellipsis stands for anything."""
    try:
        return (column.by_sql or column.shown)(value)
    except Reject:
        if column.wider_in_sql and format != "avro":
            return Ellipsis
        raise


def plain(kind: str, found: Any) -> Any:
    """A value of a result of SQL, written as that of a record function is."""
    if kind in ("micros", "nanos", "clock") and found:
        whole, point, digits = found.replace(" ", "T").partition(".")
        return f"{whole}.{digits.ljust(9 if len(digits) > 6 else 6, '0')}" if point else whole
    return float(found) if kind == "float" and found and found not in ("NaN", "Infinity", "-Infinity") else found


@pytest.mark.parametrize("format", CUTS)
@settings(
    max_examples=EXAMPLES or 12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(tables(), st.sampled_from(PARTS))
def test_rows_and_rejects_are_the_same_however_a_file_is_cut(format: str, table: Table, parts: int) -> None:
    kinds = [kind for kind in table[0] if format not in ("avro", "orc") or getattr(KINDS[kind], format)]
    table = kinds, [tuple(v for k, v in zip(table[0], row, strict=True) if k in kinds) for row in table[1]]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        files = directory / "parts"
        files.mkdir()
        pieces = CUTS[format](table, parts)
        for number, piece in enumerate(pieces):
            (files / f"{number:08d}.{format}").write_bytes(piece)
        assert by_records(sorted(files.iterdir())) == expected(table, lambda column, value: column.shown(value))
        found, rejected = by_sql(directory, files)
        wanted, bad = expected(table, partial(shown_by_sql, format))
        assert rejected == bad and len(found) == len(wanted)
        for row, right in zip(found, wanted, strict=True):
            for kind, value in right.items():
                assert value is Ellipsis or repr(plain(kind, row[kind])) == repr(value)
