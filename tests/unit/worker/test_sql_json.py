"""SQL over JSON lines: the columns and their types are those of the whole input, and nothing is lost on the way."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from services.contract.task_error import TaskError
from tests.unit.worker.test_sql import Part, counts

ALL = "SELECT * FROM input"


@pytest.fixture
def part(tmp_path: Path) -> Part:
    return Part(tmp_path)


def put(part: Part, *lines: str) -> None:
    part.put("p.jsonl", "".join(f"{line}\n" for line in lines))


def rows(part: Part, query: str = ALL, **job: Any) -> list[Any]:
    part.query(query, "p.jsonl", **job)
    lines = (part.directory / "output").read_text().splitlines()
    return [json.loads(line, parse_float=Decimal) for line in lines]


@pytest.mark.parametrize(
    ("values", "kind", "found"),
    [
        (["1", "2"], "BIGINT", [1, 2]),
        (["1", "2.5"], "DOUBLE", [1, Decimal("2.5")]),
        (["9223372036854775807", "0.5"], "DECIMAL(38,1)", [9223372036854775807, Decimal("0.5")]),
        (["123456789012345678901", "2"], "DECIMAL(38,0)", [123456789012345678901, 2]),
        (["340282366920938463463374607431768211456", "2"], "VARCHAR", ["340282366920938463463374607431768211456", "2"]),
        (["1.00000000000000000001", "2"], "DECIMAL(38,20)", [Decimal("1.00000000000000000001"), 2]),
        (["1", '"a"'], "VARCHAR", ["1", "a"]),
        (["true", '"a"'], "VARCHAR", ["true", "a"]),
        (["true", "false"], "BOOLEAN", [True, False]),
        (["[1]", "[2.5]"], "DOUBLE[]", [[1], [Decimal("2.5")]]),
        (["[1]", '"a"'], "JSON", [[1], "a"]),
        (['{"n": 1}', '{"m": "x"}'], "STRUCT(n BIGINT, m VARCHAR)", [{"n": 1, "m": None}, {"n": None, "m": "x"}]),
        (['{"n": 1}', '{"N": 2}'], "JSON", [{"n": 1}, {"N": 2}]),
        (["null", "null"], "JSON", [None, None]),
    ],
)
def test_the_type_that_holds_all_values(part: Part, values: list[str], kind: str, found: list[Any]) -> None:
    put(part, *(f'{{"v": {value}}}' for value in values))
    assert [row["v"] for row in rows(part)] == found
    assert rows(part, "SELECT DISTINCT typeof(v) AS kind FROM input") == [{"kind": kind}]


def test_keys_that_differ_by_case_are_columns_of_their_own(part: Part) -> None:
    put(part, '{"id": 1, "Id": 2}', '{"Id": 4, "id": 3}')
    assert rows(part) == [{"id": 1, "Id_1": 2}, {"id": 3, "Id_1": 4}]
    assert rows(part, "SELECT id_1 FROM input") == [{"Id_1": 2}, {"Id_1": 4}]


def test_a_key_without_a_name_and_one_given_twice(part: Part) -> None:
    put(part, '{"a": 1, "": 2, "a": 3}')
    assert rows(part) == [{"a": 3, "column1": 2}]


BAD = {
    "NaN": ('{"v": NaN}', "not JSON: NaN is not a JSON number"),
    "in a field that nobody asks for": ('{"v": 1, "w": [Infinity]}', "not JSON: Infinity is not a JSON number"),
    "two in a line": ('{"v": 1}{"v": 2}', "not JSON: Extra data at character 8"),
    "half": ('{"v": ', "not JSON: Expecting value at character 7"),
    "half a pair": ('{"v": 1, "t": "\\ud800"}', "not Unicode: an escape that is half a surrogate pair"),
    "many digits": ('{"v": ' + "9" * 5000 + "}", "not JSON that can be read: a number of more than 4300 digits"),
    "deep": ('{"v": ' + "[" * 5000 + "]" * 5000 + "}", "not JSON that can be read: nested too deeply"),
    "text": ('{"v": "1"}', "v: '1' is not of the type int64"),
    "a fraction": ('{"v": 1.5}', "v: 1.5 is not of the type int64"),
    "too large": ('{"v": 9223372036854775808}', "v: 9223372036854775808 is not of the type int64"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_a_reject_and_costs_no_other(part: Part, name: str) -> None:
    line, reason = BAD[name]
    put(part, '{"v": 1}', line, '{"v": 3}')
    found = {"v": "int64", "w": ["float64"], "t": "text"}
    assert part.query("SELECT v FROM input", "p.jsonl", found=found) == counts(3, 2, 1)
    (reject,) = part.rejects
    assert reject["reason"].startswith(reason)
    assert reject["source"] == {"uri": "s3://b/whole", "byte": 509, "record": 2}


def test_bytes_that_are_not_utf8_are_a_reject(part: Part) -> None:
    part.put("p.jsonl", b'{"v": "a"}\n{"v": "\xff"}\n')
    assert part.query(ALL, "p.jsonl", found={"v": "text"}) == counts(2, 1, 1)
    assert part.rejects[0]["reason"] == "not UTF-8: byte 0xff at byte 7 of the record"


def test_a_field_that_no_sample_shows_is_a_reject_where_all_are_asked_for(part: Part) -> None:
    put(part, '{"v": 1}', '{"v": 2, "rare": 1}')
    found = {"v": "int64"}
    assert part.query(ALL, "p.jsonl", found=found) == counts(2, 1, 1)
    assert part.rejects[0]["reason"].startswith("has the field 'rare', which none of the sampled records has: declare")
    assert part.query("SELECT v FROM input", "p.jsonl", found=found) == counts(2, 2)
    assert part.query("SELECT v, rare FROM input", "p.jsonl", found=found, declared={"rare": "int64"}) == counts(2, 2)
    with pytest.raises(TaskError, match='Referenced column "rare" not found'):
        part.query("SELECT v, rare FROM input", "p.jsonl", found=found)


def test_only_the_columns_that_are_asked_for_must_fit(part: Part) -> None:
    put(part, '{"v": 1, "w": 1}', '{"v": 2, "w": "x"}')
    found = {"v": "int64", "w": "int64"}
    for query, rejected in {
        "SELECT v FROM input": 0,
        "SELECT sum(v) AS v FROM input WHERE v > 0": 0,
        "SELECT v FROM input WHERE W > 0": 1,
        "SELECT i.w FROM input AS i": 1,
        "SELECT i FROM input AS i": 1,
        "FROM input": 1,
        "SELECT COLUMNS('v') FROM input": 1,
        "SELECT #1 FROM input": 1,
        "SELECT v FROM input NATURAL JOIN (SELECT 1 AS v)": 1,
        "WITH x AS (FROM input) SELECT v FROM x": 1,
        "SELECT v FROM (SELECT v, w AS u FROM input)": 1,
        "SELECT v FROM input ORDER BY w": 1,
    }.items():
        assert part.query(query, "p.jsonl", found=found)["records_rejected"] == rejected, query


def test_declared_types(part: Part) -> None:
    times = '"at": "2026-11-29T10:00:00+01:00", "day": "2026-02-28"'
    put(part, f'{{"zip": "02142", "n": 1, {times}, "price": 1.50, "x": {{"a": 1}}}}')
    declared = {"n": "text", "at": "timestamp", "day": "date", "price": "decimal(9,2)", "x": "json"}
    query = "SELECT zip, n, \"at\"::VARCHAR AS moment, day + 1 AS day, price * 2 AS price, x ->> 'a' AS a FROM input"
    assert rows(part, query, declared=declared) == [
        {"zip": "02142", "n": "1", "moment": "2026-11-29 09:00:00", "day": "2026-03-01", "price": 3, "a": "1"}
    ]
    assert part.query(ALL, "p.jsonl", declared={"day": "timestamp", "at": "date"}) == counts(1, 0, 1)
    assert part.rejects[0]["reason"] == "at: '2026-11-29T10:00:00+01:00' is not of the type date"


def test_a_declared_column_that_a_csv_lacks(part: Part) -> None:
    part.put("p.csv", "id,zip\n1,02142\n")
    with pytest.raises(TaskError, match=r"`columns` declares 'idd', but the CSV header names 'id', 'zip'"):
        part.query(ALL, "p.csv", declared={"idd": "int64"})


def test_thousands_of_columns_and_lines_of_megabytes(part: Part) -> None:
    wide = {f"c{n}": n for n in range(5000)}
    put(part, json.dumps(wide), json.dumps(wide | {"c7": 8}))
    assert rows(part, "SELECT c7, c4999 FROM input") == [{"c7": 7, "c4999": 4999}, {"c7": 8, "c4999": 4999}]
    assert rows(part, memory_bytes=2 << 30) == [wide, wide | {"c7": 8}]
    part.put("p.csv", ",".join(wide) + "\n" + ",".join(map(str, wide.values())) + "\n")
    assert part.rows("SELECT c4999 FROM input", "p.csv") == [{"c4999": "4999"}]
    put(part, json.dumps({"t": "x" * 3_000_000}), '{"t": "y"}')
    assert rows(part, "SELECT length(t) AS n FROM input") == [{"n": 3_000_000}, {"n": 1}]


def test_the_same_columns_in_every_part_whatever_it_holds(part: Part) -> None:
    found = {"a": "float64", "b": ["text"], "c": {"d": "int64"}}
    schemas = set()
    for line in ('{"a": 1}', '{"a": 2.5, "b": []}', '{"c": {"d": 1}}', "", "null"):
        put(part, *([line] if line else []))
        part.query(ALL, "p.jsonl", output_format="parquet", found=found)
        if (part.directory / "output").exists():
            schemas.add(str(pyarrow.parquet.read_schema(part.directory / "output").remove_metadata()))
    assert len(schemas) == 1


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('[{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]),
        ('{\n"a": 1\n}', [{"a": 1}]),
        ('{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ('{"a": 1}\n\n{"a": 2}', [{"a": 1}, {"a": 2}]),
        ("[1, 2]", [{"json": 1}, {"json": 2}]),
    ],
)
def test_a_json_document(part: Part, content: str, found: list[Any]) -> None:
    part.put("p.json", content)
    assert part.rows(ALL, "p.json") == found


def test_a_usual_block_is_read_as_our_own_reader_reads_it(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f'{{"id":{n},"t":"é {n}","f":{n / 7!r},"l":["a",null],"o":{{"x":{n}.25}}}}' for n in range(5000)]
    put(part, *lines)
    query = "SELECT * FROM input ORDER BY id"
    fast = rows(part, query)
    monkeypatch.setattr("services.inputs.lines.json_table._is_usual", lambda block, lines: False)
    assert rows(part, query) == fast == [json.loads(line, parse_float=Decimal) for line in lines]
