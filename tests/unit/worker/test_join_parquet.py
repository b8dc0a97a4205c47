"""The merge `parquet`: one type for each column that holds every part's values exactly, or one clear error."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contract.task_error import TaskError
from services.worker.child import join_parquet
from services.worker.child.parquet_writer import ParquetWriter


def put(directory: Path, *tables: Any) -> list[Path]:
    directory.mkdir(exist_ok=True)
    paths = [directory / f"{number:08d}.parquet" for number in range(len(tables))]
    for path, table in zip(paths, tables, strict=True):
        pyarrow.parquet.write_table(table, path, row_group_size=3)
    return paths


def join(directory: Path, *tables: Any) -> Any:
    output = directory / "output.parquet"
    counts = join_parquet.join_parquet(put(directory / "parts", *tables), output)
    table = pyarrow.parquet.read_table(output)
    assert counts == {"records_in": table.num_rows, "records_out": table.num_rows}
    return table


def column(values: list[Any], kind: Any = None) -> Any:
    return pyarrow.table({"v": pyarrow.array(values, kind)})


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
WIDE = Decimal(2**63)


@pytest.mark.parametrize(
    ("a", "b", "kind", "values"),
    [
        (column([1], pyarrow.int32()), column([2**60]), "int64", [1, 2**60]),
        (column([1]), column([None]), "int64", [1, None]),
        (column([None], pyarrow.string()), column([2.5]), "double", [None, 2.5]),
        (column([1]), column([Decimal("2.50")]), "decimal128(38, 2)", [Decimal("1.00"), Decimal("2.50")]),
        (column([1]), column([WIDE], pyarrow.decimal128(38, 0)), "decimal128(38, 0)", [Decimal(1), WIDE]),
        (
            column([Decimal("1.5")]),
            column([Decimal("22.75")]),
            "decimal128(38, 2)",
            [Decimal("1.50"), Decimal("22.75")],
        ),
        (column([2**53]), column([0.5]), "double", [2.0**53, 0.5]),
        (
            column(["a"]).cast(pyarrow.schema([("v", pyarrow.dictionary(pyarrow.int8(), pyarrow.string()))])),
            column(["b"]),
            "string",
            ["a", "b"],
        ),
        (
            column([{"a": 1}]),
            column([{"b": "x"}]),
            "struct<a: int64, b: string>",
            [{"a": 1, "b": None}, {"a": None, "b": "x"}],
        ),
        (
            column([NOON], pyarrow.timestamp("us", "UTC")),
            column([NOON], pyarrow.timestamp("ns", "Europe/Oslo")),
            "timestamp[ns, tz=UTC]",
            [NOON, NOON],
        ),
        (column([1], pyarrow.duration("us")), column([2], pyarrow.duration("us")), "duration[us]", None),
    ],
)
def test_the_joined_type_holds_the_values_of_both(tmp_path: Path, a: Any, b: Any, kind: str, values: Any) -> None:
    joined = join(tmp_path, a, b)
    assert str(joined.schema.field("v").type) == kind
    if values is not None:
        found = [value.as_py() for value in joined["v"]]
        assert found == values
    assert sorted(str(join(tmp_path, b, a).schema.field("v").type)) == sorted(kind)


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        (column([1]), column(["x"]), "is of type int64 in PATH/00000000.parquet, string in PATH/00000001.parquet"),
        (column([Decimal("0.1")]), column([0.1]), "is of type decimal128(1, 1) in PATH/00000000.parquet, double in"),
        (column([[Decimal("0.1")]]), column([[0.1]]), "decimal128(1, 1)> in PATH/00000000.parquet, list<"),
        (column([2**53 + 1]), column([0.5]), "int64 in PATH/00000000.parquet, double would hold the others: Integer"),
        (column([datetime(2026, 1, 1)]), column([NOON]), "timestamp[us] in PATH/00000000.parquet, timestamp[us, "),
        (column([NOON]), column(["2026"]), "string in PATH/00000001.parquet"),
    ],
)  # fmt: skip
def test_types_without_a_common_one_are_an_error_that_names_both(tmp_path: Path, a: Any, b: Any, why: str) -> None:
    with pytest.raises(TaskError) as refused:
        join(tmp_path, a, b)
    assert refused.value.type == "input_invalid" and not refused.value.retryable
    assert "the parts do not fit into one Parquet file: column 'v' is of type" in refused.value.message
    assert why.replace("PATH", str(tmp_path / "parts")) in refused.value.message


def test_columns_are_joined_by_name_and_rows_in_the_order_of_the_parts(tmp_path: Path) -> None:
    parts = [pyarrow.table({"a": [1, 2], "b": ["x", "y"]}), pyarrow.table({"b": ["z"], "c": [True]})]
    assert join(tmp_path, *parts).to_pylist() == [
        {"a": 1, "b": "x", "c": None},
        {"a": 2, "b": "y", "c": None},
        {"a": None, "b": "z", "c": True},
    ]


def test_types_that_duckdb_would_change_are_kept(tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "long": pyarrow.array([Decimal("1" * 50)], pyarrow.decimal256(76, 0)),
            "for": pyarrow.array([5], pyarrow.duration("ns")),
            "half": pyarrow.array([1.5], pyarrow.float16()),
            "Id": [1],
            "id": [2],
        }
    )
    assert join(tmp_path, table, table).schema.equals(table.schema)


def test_row_groups_are_joined_to_large_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join_parquet, "_GROUP_ROWS", 100)
    files = put(tmp_path / "parts", *[column(list(range(30)))] * 10)
    join_parquet.join_parquet(files, tmp_path / "out")
    metadata = pyarrow.parquet.read_metadata(tmp_path / "out")
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [90, 90, 90, 30]


def test_empty_parts_and_other_formats(tmp_path: Path) -> None:
    files = put(tmp_path / "parts", column([1]), column([1]).slice(1))
    (tmp_path / "parts" / "00000002.parquet").touch()
    (tmp_path / "parts" / "00000003.json").write_text("null")
    assert join_parquet.parquet_files(tmp_path / "parts") == files
    assert join_parquet.join_parquet(files, tmp_path / "out") == {"records_in": 1, "records_out": 1}
    assert join_parquet.join_parquet([], tmp_path / "none") == {"records_in": 0, "records_out": 0}
    assert not (tmp_path / "none").exists()
    (tmp_path / "parts" / "00000004.csv").write_text("v\n1\n")
    assert join_parquet.parquet_files(tmp_path / "parts") is None


numbers = st.integers(-(2**70), 2**70) | st.decimals(allow_nan=False, allow_infinity=False, places=2) | st.none()


@given(st.lists(st.lists(numbers, min_size=1, max_size=4), min_size=1, max_size=4))
def test_numbers_keep_every_digit_however_they_are_cut(tmp_path_factory: pytest.TempPathFactory, parts: Any) -> None:
    directory = tmp_path_factory.mktemp("parts")
    refused: list[str] = []
    files = []
    for number, values in enumerate(parts):
        path = directory / f"{number:08d}.parquet"
        writer = ParquetWriter(path, lambda: None, lambda _origin, reason, _rows: refused.append(reason))
        for value in values:
            writer.write({"v": value})
        writer.close()
        files.append(path)
    if refused:
        return
    try:
        join_parquet.join_parquet(files, directory / "out")
    except TaskError as error:
        assert "column 'v'" in error.message
        return
    found = [row["v"] for row in pyarrow.parquet.read_table(directory / "out").to_pylist()]
    assert found == [value for values in parts for value in values]
