"""SQL over CSV and JSON: every record comes out as it is in the file, whatever part it is in, or is a reject."""

import json
from decimal import Decimal
from typing import Any

import pytest

from tests.cases.conftest import DATA, CaseGrid, Ended

CONCAT = {"type": "concat", "filename": "all.jsonl"}
RECORDS, SQL = "case-same-jsonl", "case-sql-jsonl"


def lines(uri: str, format: str = "jsonl", **options: Any) -> dict[str, Any]:
    return {"type": "lines", "uri": uri, "format": format, **options}


def counted(ended: Ended) -> tuple[str, int, int]:
    return ended.state, len(ended.records()), len(ended.rejects())


@pytest.mark.parametrize("processor", [RECORDS, SQL])
def test_sql_json_big_int(grid: CaseGrid, processor: str) -> None:
    ended = grid.run(lines(grid.put_case("sql-json-big-int") + "in.jsonl"), processor)
    ids = [123456789012345678901, 2, 340282366920938463463374607431768211456]
    assert [int(record["id"]) for record in ended.records()] == ids
    assert not any(isinstance(record["id"], float) for record in ended.records())


def test_sql_json_big_int_as_parquet(grid: CaseGrid) -> None:
    ended = grid.run(lines(grid.put_case("sql-json-big-int") + "in.jsonl"), "case-sql-parquet")
    ids = [123456789012345678901, 2, 340282366920938463463374607431768211456]
    assert [int(record["id"]) for record in ended.records()] == ids


@pytest.mark.parametrize("name", ["int-then-float", "int-then-text"])
def test_sql_json_types_by_part(grid: CaseGrid, name: str) -> None:
    uri = grid.put_case("sql-json-types-by-part") + f"{name}.jsonl"
    wanted = [json.loads(line) for line in (DATA / f"sql-json-types-by-part/{name}.jsonl").open()]
    if name == "int-then-text":
        wanted = [record | {"v": str(record["v"])} for record in wanted]
    texts, tables = set(), set()
    for parts in (1, 2, 7, 50):
        joined = grid.run(lines(uri, parts=parts), SQL, merge=CONCAT)
        assert joined.records() == wanted
        texts.add(joined.files["all.jsonl"])
        tables.add(str(joined.job["stages"][0]["columns"]))
    merged = grid.run(lines(uri, parts=7), "case-sql-parquet", merge={"type": "parquet"})
    assert merged.records() == wanted
    assert (len(texts), len(tables)) == (1, 1)


def test_sql_json_types_of_a_later_stage(grid: CaseGrid) -> None:
    uri = grid.put_case("sql-json-types-by-part") + "int-then-float.jsonl"
    texts = {grid.run(lines(uri, parts=parts), RECORDS, SQL, merge=CONCAT).files["all.jsonl"] for parts in (1, 7)}
    assert len(texts) == 1


@pytest.mark.parametrize("name", ["in.jsonl", "nested.jsonl"])
def test_sql_json_keys_by_case(grid: CaseGrid, name: str) -> None:
    uri = grid.put_case("sql-json-keys-by-case") + name
    by_function, by_sql = (grid.run(lines(uri), processor) for processor in (RECORDS, SQL))
    assert by_sql.state == "succeeded"
    values = [list(map(json.dumps, _values(record))) for record in by_sql.records()]
    assert sorted(map(sorted, values)) == sorted(
        sorted(map(json.dumps, _values(record))) for record in by_function.records()
    )


def _values(record: Any) -> list[Any]:
    return [each for value in record.values() for each in (_values(value) if isinstance(value, dict) else [value])]


@pytest.mark.parametrize("name", ["index.csv", "trailing.csv"])
def test_sql_csv_empty_header_name(grid: CaseGrid, name: str) -> None:
    uri = grid.put_case("sql-csv-empty-header-name") + name
    by_function, by_sql = (grid.run(lines(uri, "csv"), processor).records() for processor in (RECORDS, SQL))
    assert len(by_sql) == 2
    assert [{key: value or None for key, value in record.items()} for record in by_function] == by_sql
    assert sum(key.startswith("column") for key in by_sql[0]) == 1


@pytest.mark.parametrize("processor", [RECORDS, SQL])
def test_sql_csv_empty_header_name_twice(grid: CaseGrid, processor: str) -> None:
    uri = grid.put_case("sql-csv-empty-header-name") + "trailing2.csv"
    ended = grid.run(lines(uri, "csv"), processor)
    assert (ended.state, ended.attempts) == ("succeeded", 1) or "twice" in ended.error or "name" in ended.error


@pytest.mark.parametrize("processor", [RECORDS, SQL])
def test_json_nan_literal(grid: CaseGrid, processor: str) -> None:
    ended = grid.run(lines(grid.put_case("json-nan-literal") + "in.jsonl"), processor)
    assert counted(ended) == ("succeeded", 1, 3)


@pytest.mark.parametrize("processor", [RECORDS, SQL])
def test_json_int_4301_digits(grid: CaseGrid, processor: str) -> None:
    ended = grid.run(lines(grid.put_case("json-int-4301-digits") + "in.jsonl"), processor)
    assert [record["id"] for record in ended.records()] == [1, 3]
    (reject,) = ended.rejects()
    assert "4300 digits" in reject["reason"]
    assert reject["source"]["record"] == 2


@pytest.mark.parametrize("processor", [RECORDS, SQL])
def test_sql_json_duplicate_key(grid: CaseGrid, processor: str) -> None:
    ended = grid.run(lines(grid.put_case("sql-json-duplicate-key") + "in.jsonl"), processor)
    assert counted(ended) == ("succeeded", 3, 0)


def test_csv_space_before_quote(grid: CaseGrid) -> None:
    uri = grid.put_case("csv-space-before-quote") + "in.csv"
    found = [grid.run(lines(uri, "csv", parts=parts), each) for parts in (1, 3) for each in (RECORDS, SQL)]
    assert len({json.dumps([ended.records(), [r["reason"] for r in ended.rejects()]]) for ended in found}) == 1
    assert counted(found[0])[0] == "succeeded"


def test_sql_csv_row_over_2_mb(grid: CaseGrid) -> None:
    uri = grid.put_case("sql-csv-row-over-2-mb") + "in.csv.gz"
    by_sql = grid.run(lines(uri, "csv"), "case-sql-lengths")
    assert (by_sql.records(), by_sql.rejects()) == ([{"id": "1", "n": 3_000_000}, {"id": "2", "n": 1}], [])
    by_function = grid.run(lines(uri, "csv"), RECORDS)
    assert [len(record["text"]) for record in by_function.records()] == [3_000_000, 1]


def test_columns_are_declared(grid: CaseGrid) -> None:
    """`columns` means the same to both, and is shown with the stage."""
    uri = grid.put({"in.csv": "id,zip,price\n1,02142,1.10\nx,08901,2\n,1,12345678901234567890.5\n"}) + "in.csv"
    columns = {"id": "int64", "price": "decimal(30,2)"}
    for processor in (RECORDS, SQL):
        ended = grid.run(lines(uri, "csv"), {"processor": processor, "columns": columns})
        body = ended.files[next(name for name in ended.files if name != "rejects.jsonl")]
        records = [json.loads(line, parse_float=Decimal) for line in body.splitlines()]
        assert records == [
            {"id": 1, "zip": "02142", "price": Decimal("1.10")},
            {"id": None, "zip": "1", "price": Decimal("12345678901234567890.5")},
        ]
        assert [reject["reason"] for reject in ended.rejects()] == ["id: 'x' is not of the type int64"]
        assert ended.job["stages"][0]["columns"] == columns
