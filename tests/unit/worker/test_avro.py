"""Avro by record functions and SQL: logical types exact, columns typed by the schema, and bad values rejected alone."""

import io
import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import fastavro
import pytest

from services.contract.task_error import Malformed, TaskError
from services.inputs.avro.header import HEADER
from services.inputs.avro.logical import Duration
from services.inputs.nanoseconds import Datetime
from services.worker.child.readers import open_reader
from tests.unit.worker.test_sql import Part

Type = Any


@pytest.fixture
def part(tmp_path: Path) -> Part:
    return Part(tmp_path)


def schema_of(type: Type) -> dict[str, Any]:
    return {"type": "record", "name": "r", "fields": [{"name": "id", "type": "int"}, {"name": "x", "type": type}]}


def avro(type: Type, plain: Type, values: list[Any]) -> bytes:
    """A file of that type of `x` whose values were written as another one, which may hold anything."""
    sink = io.BytesIO()
    fastavro.writer(sink, schema_of(plain), [{"id": number, "x": value} for number, value in enumerate(values)])
    source = io.BytesIO(sink.getvalue())
    header: Any = fastavro.schemaless_reader(source, HEADER, None)
    header["meta"]["avro.schema"] = json.dumps(schema_of(type)).encode()
    made = io.BytesIO()
    fastavro.schemaless_writer(made, HEADER, header)
    return made.getvalue() + source.read()


def logical(type: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": type, "logicalType": name, **more}


def read(path: Path) -> list[Any]:
    """The values of `x`; the reason for a record that can't be read."""
    reader = open_reader(path)
    values = []
    for raw in reader.raws():
        try:
            values.append(reader.parse(raw)["x"])
        except Malformed as error:
            values.append(str(error))
    return values


LONG_DECIMAL = "{}.{:02}".format(*divmod(int.from_bytes(b"\x7f" * 20), 100))
LONG = 253_402_300_800_000  # the year 10000, in milliseconds
DAYS = {"type": "array", "items": logical("int", "date")}
SWITCH = {"type": "enum", "name": "e", "symbols": ["on", "off"]}
FIXED = {"type": "fixed", "name": "f", "size": 12}


@pytest.mark.parametrize(
    ("type", "plain", "values", "records", "sql"),
    [
        (logical("long", "timestamp-millis"), "long", [5, LONG],
         [datetime(1970, 1, 1, 0, 0, 0, 5000, UTC), "column 'x': the timestamp-millis 253402300800000 can't be read"],
         ["1970-01-01 00:00:00.005+00"]),
        (logical("long", "timestamp-nanos"), "long", [-1],
         [Datetime.of(datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), 999)], ["1969-12-31 23:59:59.999999999+00"]),
        (logical("long", "local-timestamp-micros"), "long", [1], [datetime(1970, 1, 1, 0, 0, 0, 1)],
         ["1970-01-01 00:00:00.000001"]),
        (logical("int", "date"), "int", [0, 4_000_000], [date(1970, 1, 1), "the date 4000000 can't be read"],
         ["1970-01-01"]),
        (logical("int", "time-millis"), "int", [1, -5], [time(0, 0, 0, 1000), "time-millis -5 can't be read"],
         ["00:00:00.001"]),
        (logical("bytes", "decimal", precision=4, scale=2), "bytes", [b"\x01\x00"], [Decimal("2.56")],
         [Decimal("2.56")]),
        (logical("bytes", "decimal", precision=60, scale=2), "bytes", [b"\x7f" * 20],
         [Decimal(LONG_DECIMAL)], [LONG_DECIMAL]),
        (logical("string", "uuid"), "string", [str(UUID(int=1)), "nope"], [UUID(int=1), "uuid 'nope' can't be read"],
         [str(UUID(int=1))]),
        (["null", DAYS], ["null", {"type": "array", "items": "int"}], [[0], None, [4_000_000]],
         [[date(1970, 1, 1)], None, "column 'x': the date 4000000 can't be read"], [["1970-01-01"], None]),
        ("string", "bytes", [b"a", b"b\xff", "é".encode(), b"\xed\xa0\x80"],
         ["a", "column 'x': the text is not UTF-8", "é", "column 'x': the text is not UTF-8"], ["a", "é"]),
        ({"type": "map", "values": logical("long", "timestamp-nanos")}, {"type": "map", "values": "long"}, [{"a": 1}],
         [{"a": Datetime.of(datetime(1970, 1, 1, tzinfo=UTC), 1)}], [{"a": "1970-01-01 00:00:00.000000001+00"}]),
        ({**FIXED, "logicalType": "duration"}, FIXED, [b"\1\0\0\0\2\0\0\0\3\0\0\0"], [Duration(1, 2, 3)], [[1, 2, 3]]),
        (["int", "string"], ["int", "string"], [1, "b"], [1, "b"], [1, "b"]),
        ("bytes", "bytes", [b"ab"], [b"ab"], ["ab"]),
        ("double", "double", [1.5, float("inf")], [1.5, float("inf")], [1.5, "Infinity"]),
        (SWITCH, SWITCH, ["off"], ["off"], ["off"]),
    ],
)  # fmt: skip
def test_values_by_records_and_by_sql(
    part: Part, type: Type, plain: Type, values: list[Any], records: list[Any], sql: list[Any]
) -> None:
    path = part.put("in.avro", avro(type, plain, values))
    for found, expected in zip(read(path), records, strict=True):
        assert found == expected or expected in found
    good = [number for number, expected in enumerate(records) if "can't be" not in str(expected)]
    good = [number for number in good if "not UTF-8" not in str(records[number])]

    counted = part.query("SELECT * FROM input", "in.avro")
    lines = (part.directory / "output").read_text().splitlines()
    found = [json.loads(line, parse_constant=pytest.fail, parse_float=Decimal) for line in lines]
    assert found == [{"id": number, "x": value} for number, value in zip(good, sql, strict=True)]
    assert (counted["records_in"], counted["records_rejected"]) == (len(values), len(values) - len(good))
    assert [reject["source"]["record"] - 1 for reject in part.rejects] == sorted(set(range(len(values))) - set(good))


def test_columns_have_the_types_of_the_schema_whatever_the_values_are(part: Part) -> None:
    schema = {**schema_of(["null", "long"]), "fields": [*schema_of(["null", "long"])["fields"],
              {"name": "X", "type": ["null", logical("bytes", "decimal", precision=10, scale=3)]}]}  # fmt: skip
    sink = io.BytesIO()
    fastavro.writer(sink, schema, [{"id": 1, "x": None, "X": None}])
    part.put("in.avro", sink.getvalue())
    types = "SELECT typeof(id) AS id, typeof(x) AS x, typeof(X_1) AS y FROM input"
    assert part.rows(types, "in.avro") == [{"id": "INTEGER", "x": "BIGINT", "y": "DECIMAL(10,3)"}]


def nested(depth: int) -> bytes:
    """A list of that many links."""
    schema = {
        "type": "record",
        "name": "link",
        "fields": [{"name": "v", "type": "int"}, {"name": "next", "type": ["null", "link"]}],
    }
    sink = io.BytesIO()
    value: Any = None
    for number in range(min(depth, 100)):
        value = {"v": number, "next": value}
    fastavro.writer(sink, schema, [value])
    if depth <= 100:
        return sink.getvalue()
    source = io.BytesIO(sink.getvalue())
    fastavro.schemaless_reader(source, HEADER, None)
    header = sink.getvalue()[: source.tell()]
    block = io.BytesIO()
    body = b"\x02\x02" * (depth - 1) + b"\x02\x00"
    for number in (1, len(body)):
        fastavro.schemaless_writer(block, "long", number)
    return header + block.getvalue() + body + sink.getvalue()[-16:]


def test_a_type_within_itself_is_read_and_one_too_deep_is_an_error_not_a_crash(part: Part) -> None:
    path = part.put("in.avro", nested(100))
    assert len(list(open_reader(path).raws())) == 1
    assert part.rows("SELECT v FROM input", "in.avro") == [{"v": 99}]
    path = part.put("in.avro", nested(20_000))
    with pytest.raises(TaskError, match="the Avro file can't be read: RecursionError"):
        list(open_reader(path).raws())


def test_what_user_code_reads_by_fastavro_stays_as_it_is(part: Part) -> None:
    path = part.put("in.avro", avro(logical("int", "time-millis"), "int", [1]))
    read(path)
    with path.open("rb") as file:
        assert list(fastavro.reader(file)) == [{"id": 0, "x": time(0, 0, 0, 1000)}]
