"""Parquet, Arrow, ORC and Avro of real users: every value exact, and a bad one the fault of its record alone."""

from pathlib import Path
from typing import Any

import pytest

from piecework.errors import ApiError
from tests.cases.conftest import DATA, CaseGrid, Ended

EVERY = ("case-same-jsonl", "case-sql-jsonl")


def run(grid: CaseGrid, case: str, processor: str, name: str | None = None, **options: Any) -> Ended:
    """The case's file as the input of its own type."""
    file = next(path for path in (DATA / case).iterdir() if name in (None, path.name))
    type = Path(file).suffix.removeprefix(".")
    return grid.run({"type": type, "uri": grid.put_case(case) + file.name, **options}, processor)


@pytest.mark.parametrize("processor", EVERY)
def test_parquet_same_name_twice(grid: CaseGrid, processor: str) -> None:
    with pytest.raises(ApiError, match="names the column 'value' twice"):
        run(grid, "parquet-same-name-twice", processor)

    ended = grid.run({"type": "objects", "prefix": grid.put_case("parquet-same-name-twice")}, processor)
    assert (ended.state, ended.error_code, ended.attempts) == ("failed", "input_invalid", 1)
    assert "names the column 'value' twice" in ended.error


def test_parquet_year_after_9999(grid: CaseGrid) -> None:
    ended = run(grid, "parquet-year-after-9999", "case-same-jsonl")
    assert [record["id"] for record in ended.records()] == [1, 3]
    [reject] = ended.rejects()
    assert "column 'at': the timestamp[us] 10000-01-01 00:00:00.000000" in reject["reason"]
    assert reject["source"]["record"] == 2 and reject["record"]["d"] == "20207-03-15"

    by_sql = run(grid, "parquet-year-after-9999", "case-sql-jsonl").records()
    assert [(record["id"], record["at"]) for record in by_sql][1] == (2, "10000-01-01 00:00:00")


@pytest.mark.parametrize("processor", EVERY)
def test_parquet_nanoseconds(grid: CaseGrid, processor: str) -> None:
    first, second = run(grid, "parquet-nanoseconds", processor).records()
    assert first["at"].replace(" ", "T") == "2023-11-14T22:13:20.000000001" and first["clock"] == "00:00:00.000000001"
    assert second["at"].replace(" ", "T") == "2023-11-14T22:13:20" and second["clock"] == "00:00:00.000002"


@pytest.mark.parametrize("options", [{}, {"row_groups": 1}], ids=["whole", "row-groups"])
@pytest.mark.parametrize("processor", ["case-same-jsonl", "case-sql-jsonl", "case-same-parquet", "case-sql-parquet"])
def test_parquet_int96_year_9999(grid: CaseGrid, processor: str, options: dict[str, int]) -> None:
    ended = run(grid, "parquet-int96-year-9999", processor, **options)
    days = {record["id"]: str(record["valid_to"])[:10] for record in ended.records()}
    assert days == {1: "9999-12-31", 2: "2026-01-01", 3: "0001-01-01"}


def test_parquet_int96_year_9999_copied_and_read_again(grid: CaseGrid) -> None:
    uri = grid.put_case("parquet-int96-year-9999") + "valid-to.parquet"
    stages = ("case-copy", "case-same-jsonl")
    ended = grid.run({"type": "parquet", "uri": uri, "row_groups": 1}, *stages)
    assert {record["valid_to"][:10] for record in ended.records()} == {"9999-12-31", "2026-01-01", "0001-01-01"}


@pytest.mark.parametrize("processor", EVERY)
@pytest.mark.parametrize(
    ("name", "column", "values"),
    [
        ("interval.arrow", "step", [[1, 2, 3], [0, 0, 5]]),
        ("run-ends.arrow", "state", ["on", "on"]),
        ("union.arrow", "either", [1, "b"]),
    ],
)
def test_arrow_types_that_parquet_lacks(
    grid: CaseGrid, processor: str, name: str, column: str, values: list[Any]
) -> None:
    records = run(grid, "arrow-types-that-parquet-lacks", processor, name).records()
    assert [(record["id"], record[column]) for record in records] == list(zip([1, 2], values, strict=True))


def test_json_int_4301_digits(grid: CaseGrid) -> None:
    uri = grid.put_case("json-int-4301-digits") + "in.jsonl"
    ended = grid.run({"type": "lines", "format": "jsonl", "uri": uri}, "case-same-jsonl")
    assert [record["id"] for record in ended.records()] == [1, 3]
    [reject] = ended.rejects()
    assert reject["source"]["record"] == 2 and "digits" in reject["reason"]
