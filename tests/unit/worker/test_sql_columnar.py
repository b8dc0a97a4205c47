"""SQL over Parquet and Arrow: every value as it is in the file, and a row that can't be read rejected alone."""

import io
import json
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from services.contract.task_error import TaskError
from tests.unit.worker.test_sql import Part


@pytest.fixture
def part(tmp_path: Path) -> Part:
    return Part(tmp_path)


def arrow(table: Any) -> bytes:
    sink = io.BytesIO()
    with pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet(table: Any) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue()


WRITERS: dict[str, Callable[[Any], bytes]] = {"in.arrow": arrow, "in.parquet": parquet}


def records(part: Part) -> list[dict[str, Any]]:
    lines = (part.directory / "output").read_text().splitlines()
    return [json.loads(line, parse_constant=pytest.fail) for line in lines]


def texts(*values: bytes) -> Any:
    return pyarrow.array(values).view(pyarrow.string())


def integers(values: list[int], kind: Any) -> Any:
    return pyarrow.array(values, pyarrow.int64()).view(kind)


BYTES = pyarrow.array([uuid.UUID(int=1).bytes] * 2, pyarrow.binary(16))
WIDE = Decimal("1" * 50)
INTERVAL = pyarrow.month_day_nano_interval()


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pyarrow.array([(1, 2, 3), None], INTERVAL), [[1, 2, 3], None]),
        (pyarrow.RunEndEncodedArray.from_arrays([2], ["on"]), ["on", "on"]),
        (pyarrow.RunEndEncodedArray.from_arrays([2], pyarrow.array([(1, 2, 3)], INTERVAL)), [[1, 2, 3]] * 2),
        (
            pyarrow.UnionArray.from_sparse(
                pyarrow.array([0, 1], pyarrow.int8()), [pyarrow.array([1, 2]), pyarrow.array(["a", "b"])]
            ),
            [1, "b"],
        ),
        (pyarrow.array([{}, None], pyarrow.struct([])), [{}, None]),
        (pyarrow.array([Decimal("1E3")] * 2, pyarrow.decimal128(5, -2)), ["1.0E+3"] * 2),
        (pyarrow.array([[WIDE]] * 2, pyarrow.list_(pyarrow.decimal256(50, 0))), [[str(WIDE)]] * 2),
        (pyarrow.DictionaryArray.from_arrays([0, 1], pyarrow.array([[1], [2]])), [[1], [2]]),
        (pyarrow.ExtensionArray.from_storage(pyarrow.uuid(), BYTES), [str(uuid.UUID(int=1))] * 2),
        (pyarrow.array([1.5, None], pyarrow.float16()), [1.5, None]),
        (pyarrow.array([2**64 - 1, None], pyarrow.uint64()), [2**64 - 1, None]),
    ],
    ids=lambda value: str(value.type) if hasattr(value, "type") else "",
)
def test_a_type_that_parquet_or_duckdb_lacks_fails_no_query(part: Part, column: Any, values: list[Any]) -> None:
    part.put("in.arrow", arrow(pyarrow.table({"id": [1, 2], "x": column})))
    part.query("SELECT id FROM input", "in.arrow")
    assert records(part) == [{"id": 1}, {"id": 2}]
    part.query("SELECT x FROM input", "in.arrow")
    assert [record["x"] for record in records(part)] == values
    part.query("SELECT x FROM input", "in.arrow", output_format="parquet")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (texts(b"a", b"\xff", b"c"), "the text is not UTF-8: byte 0xff at byte 0"),
        (pyarrow.ListArray.from_arrays([0, 1, 2, 3], texts(b"a", b"b\xff", b"c")), "byte 0xff at byte 1"),
        (integers([1, 86_400_000_001, 2], pyarrow.time64("us")), "the time64[us] 86400000001 is out of range"),
        (integers([1, 2**62, 2], pyarrow.timestamp("ms")), "the timestamp[ms] 4611686018427387904 is out of range"),
    ],
    ids=lambda value: str(value.type) if hasattr(value, "type") else "",
)
def test_a_value_that_duckdb_refuses_rejects_its_row(part: Part, name: str, column: Any, reason: str) -> None:
    part.put(name, WRITERS[name](pyarrow.table({"id": [1, 2, 3], "x": column})))
    counts = part.query("SELECT * FROM input", name)
    assert [record["id"] for record in records(part)] == [1, 3]
    assert (counts["records_in"], counts["records_out"], counts["records_rejected"]) == (3, 2, 1)
    [reject] = part.rejects
    assert reject["source"]["record"] == 2 and reject["record"]["id"] == 2
    assert reject["reason"].startswith("column 'x': ") and reason in reject["reason"]


def test_in_a_declared_input_such_a_value_is_an_error(part: Part) -> None:
    part.put("part.csv", "id\n1\n")
    part.inputs["words"] = part.put("words.parquet", parquet(pyarrow.table({"x": texts(b"\xff")})))
    with pytest.raises(TaskError, match=r"words.parquet: record 1: column 'x': the text is not UTF-8") as refused:
        part.query("SELECT * FROM words")
    assert refused.value.type == "input_invalid"


def test_what_the_query_does_not_read_does_no_harm(part: Part) -> None:
    part.put("in.parquet", parquet(pyarrow.table({"id": [1, 2], "x": texts(b"a", b"\xff")})))
    assert part.query("SELECT id FROM input", "in.parquet")["records_out"] == 2


@pytest.mark.parametrize("name", WRITERS)
def test_decimals_of_more_than_38_digits_are_text(part: Part, name: str) -> None:
    part.put(name, WRITERS[name](pyarrow.table({"x": pyarrow.array([WIDE], pyarrow.decimal256(60, 5))})))
    part.query("SELECT * FROM input", name)
    assert records(part) == [{"x": f"{WIDE}.00000"}]


@pytest.mark.parametrize("name", WRITERS)
def test_names_that_are_equal_but_for_case_and_unnamed_columns(part: Part, name: str) -> None:
    table = pyarrow.table([pyarrow.array([n]) for n in range(4)], ["id", "Id", "", "ID_1"])
    part.put(name, WRITERS[name](table))
    part.query("SELECT * FROM input", name)
    assert records(part) == [{"id": 0, "Id_2": 1, "column2": 2, "ID_1": 3}]
    part.put(name, WRITERS[name](pyarrow.table([pyarrow.array([1])] * 2, ["value"] * 2)))
    with pytest.raises(TaskError, match="names the column 'value' twice"):
        part.query("SELECT * FROM input", name)


def test_integers_beyond_64_bits_stay_exact_in_every_output(part: Part) -> None:
    part.put("in.parquet", parquet(pyarrow.table({"x": [2**63 - 1] * 2})))
    query = "SELECT sum(x) AS s, [sum(x)] AS l, {'a': sum(x)} AS t, {params.n} + sum(x) AS p FROM input"
    whole = 2**64 - 2
    expected = {"s": whole, "l": [whole], "t": {"a": whole}, "p": whole + 1}
    for output_format in ("jsonl", "parquet"):
        part.query(query, "in.parquet", output_format=output_format, params={"n": 1})
        output = part.directory / "output"
        found = records(part) if output_format == "jsonl" else pyarrow.parquet.read_table(output).to_pylist()
        assert found == [expected]
    with pytest.raises(TaskError, match="340282366920938463463374607431768211455"):
        part.query(
            "SELECT 340282366920938463463374607431768211455::UHUGEINT AS u FROM input",
            "in.parquet",
            output_format="parquet",
        )


def test_numbers_that_json_has_not_are_text_in_json(part: Part) -> None:
    part.put("in.parquet", parquet(pyarrow.table({"x": [1.5, float("nan"), float("-inf")]})))
    part.query("""SELECT x, [x] AS l, ',NaN,":NaN,\\' AS s FROM input""", "in.parquet")
    texts = [1.5, "NaN", "-Infinity"]
    assert records(part) == [{"x": x, "l": [x], "s": ',NaN,":NaN,\\'} for x in texts]


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
def test_times_with_a_zone_do_not_depend_on_the_node(part: Part, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    kind = pyarrow.timestamp("ns", "Europe/Oslo")
    part.put("in.parquet", parquet(pyarrow.table({"seen": pyarrow.array([1_700_000_000_000_000_001], kind)})))
    part.query("SELECT seen, seen::VARCHAR AS t FROM input", "in.parquet")
    assert records(part) == [dict.fromkeys(("seen", "t"), "2023-11-14 22:13:20.000000001+00")]


@pytest.mark.parametrize("output_format", ["jsonl", "csv", "parquet"])
def test_nanoseconds_are_exact_in_every_output(part: Part, output_format: str) -> None:
    stamp = 1_700_000_000_000_000_001
    table = pyarrow.table({"seen": pyarrow.array([stamp], pyarrow.timestamp("ns"))})
    part.put("in.parquet", parquet(table))
    part.query("SELECT seen FROM input", "in.parquet", output_format=output_format)
    output: Path = part.directory / "output"
    if output_format == "parquet":
        assert pyarrow.parquet.read_table(output)["seen"].cast(pyarrow.int64()).to_pylist() == [stamp]
    else:
        assert "2023-11-14 22:13:20.000000001" in output.read_text()
