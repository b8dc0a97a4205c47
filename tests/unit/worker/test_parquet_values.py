"""What the Parquet writer makes of values: as they are, or a reject that names the column."""

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from services.contract.task_error import Malformed
from services.inputs.nanoseconds import Datetime, Time, Timedelta
from services.worker.child.parquet_writer import ParquetWriter

NOON = datetime(2026, 1, 1, 12)
STAMP = Datetime.of(datetime(2023, 11, 14, 22, 13, 20), 1)
FAR = Datetime.of(datetime(9999, 12, 31), 0)


def write(directory: Path, values: list[Any]) -> tuple[Any, list[str]]:
    """The column of these values, and why others were refused."""
    reasons: list[str] = []
    path = directory / "p.parquet"
    writer = ParquetWriter(path, lambda: None, lambda _origin, reason, _rows: reasons.append(reason))
    for value in values:
        writer.write({"id": 1, "v": value})
    writer.close()
    return pyarrow.parquet.read_table(path)["v"], reasons


@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        ([1, 2**64, -(2**70)], "decimal128(38, 0)", [1, 2**64, -(2**70)]),
        ([{"a": 2**64}], "struct<a: decimal128(38, 0)>", [{"a": Decimal(2**64)}]),
        ([1, Decimal("0.01"), Decimal("1E+3")], "decimal128(38, 2)", [1, Decimal("0.01"), 1000]),
        ([10**50], "decimal256(51, 0)", [10**50]),
        ([1, 2.5], "double", [1, 2.5]),
        ([datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))], "timestamp[us, tz=+02:00]", None),
        ([FAR], "timestamp[us]", [FAR]),
        ([[1], None, []], "list<element: int64>", [[1], None, []]),
        ([None, None], "string", [None, None]),
        ([float("nan")], "double", None),
    ],
)
def test_the_first_rows_tell_a_type_that_holds_them(tmp_path: Path, values: Any, kind: str, stored: Any) -> None:
    column, reasons = write(tmp_path, values)
    assert (str(column.type), reasons) == (kind, [])
    assert stored is None or column.to_pylist() == stored


@pytest.mark.parametrize(
    ("values", "kind", "counts"),
    [
        ([STAMP, None, NOON], "timestamp[ns]", [1_700_000_000_000_000_001, None, 1_767_268_800_000_000_000]),
        ([STAMP.replace(tzinfo=UTC)], "timestamp[ns, tz=UTC]", [1_700_000_000_000_000_001]),
        ([Time.of(time(0, 0, 1), 7), time(0)], "time64[ns]", [1_000_000_007, 0]),
        ([Timedelta.of(timedelta(seconds=-1), 7)], "duration[ns]", [-999_999_993]),
    ],
)
def test_nanoseconds_are_written(tmp_path: Path, values: Any, kind: str, counts: Any) -> None:
    column, reasons = write(tmp_path, values)
    assert (str(column.type), reasons) == (kind, [])
    assert column.cast(pyarrow.int64()).to_pylist() == counts
    nested, _ = write(tmp_path, [{"a": [value]} for value in values])
    assert nested.combine_chunks().field("a").flatten().cast(pyarrow.int64()).to_pylist() == counts


@pytest.mark.parametrize(
    ("values", "kept", "reason"),
    [
        ([1, 1.5, "x"], [1], "a value has a fraction"),
        ([1, "x", Decimal("0.5")], [1], "a value has a fraction"),
        ([[1], "x", [1.5]], [[1]], "a value has a fraction"),
        ([{"a": 1}, "x", {"a": Decimal("0.5")}], [{"a": 1}], "a value has a fraction"),
        ([date(2026, 1, 1), NOON], [date(2026, 1, 1)], "a value is of type datetime"),
        ([NOON, NOON.replace(tzinfo=UTC)], [NOON], "a value has a time zone"),
        ([NOON, 5], [NOON], "a value is of type int"),
        ([STAMP, FAR], None, "9999-12-31 00:00:00 is outside the years 1677 to 2262"),
        ([{}, None], [None], "is of type string"),
        (["a", "\ud800"], ["a"], "surrogates not allowed"),
        ([Decimal("1.5"), Decimal("Infinity")], [Decimal("1.5")], "is of type decimal128(38, 1)"),
        ([1, 10**99, "x"], [1], "is of type int64"),
    ],
)
def test_what_the_type_does_not_hold_is_refused_and_never_changed(
    tmp_path: Path, values: Any, kept: Any, reason: str
) -> None:
    column, reasons = write(tmp_path, values)
    assert kept is None or column.to_pylist() == kept
    assert len(column) + len(reasons) == len(values)
    assert any(reason in why for why in reasons) and all("column 'v' is of type" in why for why in reasons)


@pytest.mark.parametrize(("name", "reason"), [(1, "must be text, 1 is of type int"), ("\ud800", "can't be written")])
def test_a_key_that_cannot_name_a_column_is_refused(tmp_path: Path, name: Any, reason: str) -> None:
    writer = ParquetWriter(tmp_path / "p.parquet", lambda: None, lambda *_: None)
    with pytest.raises(Malformed, match=reason):
        writer.write({name: 1})
    writer.write({"id": 1})
    with pytest.raises(Malformed):
        writer.write({name: 1})
