"""Python values of Arrow columns: exact, and a value that Python can't hold is the fault of its row alone."""

import copy
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pyarrow
import pytest

from services.contract.task_error import Malformed
from services.inputs.arrow_values import check_structure, rows, shown_row
from services.inputs.nanoseconds import Datetime, Time, Timedelta, duration_text

NS = pyarrow.timestamp("ns")


def integers(values: list[int | None], kind: Any) -> Any:
    return pyarrow.array(values, pyarrow.int32() if kind.bit_width == 32 else pyarrow.int64()).view(kind)


def texts(*values: bytes) -> Any:
    return pyarrow.array(values).view(pyarrow.string())


def read(array: Any) -> list[Any]:
    """The column `x` of a batch of that array; the reason for a row that can't be read."""
    batch = pyarrow.record_batch([array], ["x"])
    return [str(row) if isinstance(row, Malformed) else row["x"] for row in rows(batch, ["x"])]


STAMP = Datetime.of(datetime(2023, 11, 14, 22, 13, 20), 1)
NUMBER = 1_700_000_000_000_000_001


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (pyarrow.array([NUMBER, None], NS), [STAMP, None]),
        (
            pyarrow.array([-(2**63) + 1], NS),
            [Datetime.of(datetime(1677, 9, 21, 0, 12, 43, 145_224), 193)],
        ),
        (pyarrow.array([-1], NS), [Datetime.of(datetime(1969, 12, 31, 23, 59, 59, 999_999), 999)]),
        (pyarrow.array([NUMBER], pyarrow.timestamp("ns", "UTC")), [STAMP.replace(tzinfo=UTC)]),
        (pyarrow.array([1, None], pyarrow.time64("ns")), [Time.of(time(0), 1), None]),
        (pyarrow.array([-1, None], pyarrow.duration("ns")), [Timedelta.of(timedelta(microseconds=-1), 999), None]),
        (pyarrow.array([[NUMBER], None, []], pyarrow.list_(NS)), [[STAMP], None, []]),
        (pyarrow.array([[NUMBER], None], pyarrow.list_(NS, 1)), [[STAMP], None]),
        (pyarrow.array([[NUMBER], None], pyarrow.large_list_view(NS)), [[STAMP], None]),
        (pyarrow.array([{"a": NUMBER}, None], pyarrow.struct([("a", NS)])), [{"a": STAMP}, None]),
        (pyarrow.array([None, [("a", NUMBER)] * 2], pyarrow.map_(pyarrow.string(), NS)), [None, [("a", STAMP)] * 2]),
        (pyarrow.array([NUMBER, None], NS).dictionary_encode(), [STAMP, None]),
        (pyarrow.RunEndEncodedArray.from_arrays([2], pyarrow.array([NUMBER], NS)), [STAMP, STAMP]),
        (
            pyarrow.UnionArray.from_sparse(
                pyarrow.array([1, 0], pyarrow.int8()), [pyarrow.array(["a", "b"]), pyarrow.array([NUMBER, 2], NS)]
            ),
            [STAMP, "b"],
        ),
        (pyarrow.array([Decimal("1" * 50)], pyarrow.decimal256(76, 0)), [Decimal("1" * 50)]),
        (pyarrow.array([1.5, None], pyarrow.float16()), [1.5, None]),
        (pyarrow.array([{}, None], pyarrow.struct([])), [{}, None]),
    ],
    ids=lambda value: str(value.type) if hasattr(value, "type") else "",
)
def test_values_are_exact_and_of_python_types_alone(array: Any, values: list[Any]) -> None:
    assert read(array) == values
    assert read(array.slice(1)) == values[1:]
    assert not any("pandas" in str(type(value)) for value in read(array))


@pytest.mark.parametrize(
    ("array", "good", "reason"),
    [
        (
            integers([0, 4_000_000], pyarrow.date32()),
            date(1970, 1, 1),
            "the date32[day] 12921-08-18 is out of range",
        ),
        (
            integers([0, -(2**62)], pyarrow.timestamp("s")),
            datetime(1970, 1, 1),
            "the timestamp[s] -4611686018427387904 is out of range",
        ),
        (
            integers([0, -62_135_596_800], pyarrow.timestamp("s", "-02:00")),
            datetime(1969, 12, 31, 22, tzinfo=timezone(timedelta(hours=-2))),
            "the timestamp[s, tz=-02:00] 0001-01-01 00:00:00 is out of range",
        ),
        (integers([None, 0], pyarrow.timestamp("s", "Mars/X")), None, "the time zone 'Mars/X' is unknown"),
        (integers([0, -5], pyarrow.time32("s")), time(0), "the time32[s] -5 is out of range"),
        (integers([0, 86_400 * 10**9], pyarrow.time64("ns")), Time(), "the time64[ns] 86400000000000 is out of range"),
        (integers([0, 2**62], pyarrow.duration("s")), timedelta(0), "the duration[s] 4611686018427387904 is out of"),
        (texts(b"a", b"b\xff"), "a", "the text is not UTF-8: byte 0xff at byte 1"),
        (pyarrow.DictionaryArray.from_arrays([0, 1], texts(b"a", b"\xff"), safe=False), "a", "the text is not UTF-8"),
        (pyarrow.DictionaryArray.from_arrays([0, -3], texts(b"a"), safe=False), "a", "Index -3 out of bounds"),
        (pyarrow.ListArray.from_arrays([0, 1, 2], texts(b"a", b"\xff")), ["a"], "the text is not UTF-8"),
        (pyarrow.StructArray.from_arrays([texts(b"a", b"\xff")], ["f"]), {"f": "a"}, "the text is not UTF-8"),
        (
            pyarrow.MapArray.from_arrays([0, 1, 2], texts(b"a", b"\xff"), pyarrow.array([1, 2])),
            [("a", 1)],
            "the text is not UTF-8",
        ),
    ],
    ids=lambda value: str(value.type) if hasattr(value, "type") else "",
)
def test_a_value_that_python_cannot_hold_fails_its_row_alone(array: Any, good: Any, reason: str) -> None:
    first, second = read(array)
    assert first == good
    assert second.startswith("column 'x': ") and reason in second
    shown = shown_row(pyarrow.record_batch([array], ["x"]), ["x"], 1)
    assert isinstance(shown["x"], str)


def test_a_row_that_can_be_read_has_text_for_what_can_be_shown() -> None:
    batch = pyarrow.record_batch([texts(b"b\xff"), integers([4_000_000], pyarrow.date32())], ["t", "d"])
    assert shown_row(batch, ["t", "d"], 0) == {"t": "b\\xff", "d": "12921-08-18"}


def test_a_batch_whose_buffers_contradict_each_other_is_refused() -> None:
    offsets = b"".join(number.to_bytes(4, "little") for number in (0, 900, 2))
    buffers = [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(b"ab")]
    damaged = pyarrow.Array.from_buffers(pyarrow.string(), 2, buffers)
    with pytest.raises(pyarrow.ArrowInvalid, match="ffset"):
        check_structure(pyarrow.record_batch([damaged], ["x"]))
    check_structure(pyarrow.record_batch([texts(b"a", b"b\xff")], ["x"]))


def test_times_in_nanoseconds_compare_copy_and_print_exactly() -> None:
    later, plain = STAMP.replace(nanosecond=2), datetime(2023, 11, 14, 22, 13, 20)
    assert sorted([later, STAMP, plain]) == [plain, STAMP, later] and len({plain, STAMP, later}) == 3
    assert plain != STAMP and STAMP <= STAMP < later and copy.deepcopy(STAMP) == STAMP
    assert STAMP.replace(nanosecond=0) == plain and hash(STAMP.replace(nanosecond=0)) == hash(plain)
    assert str(STAMP.replace(tzinfo=UTC)) == "2023-11-14 22:13:20.000000001+00:00"
    assert STAMP.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=1))).nanosecond == 1
    assert Time.of(time(1, 2), 7).isoformat() == "01:02:00.000000007" and STAMP.time().nanosecond == 1
    assert str(Timedelta.of(timedelta(seconds=1), 5)) == "0:00:01.000000005"
    assert duration_text(Timedelta.of(timedelta(microseconds=-1), 999)) == "-PT0.000000001S"
    assert duration_text(timedelta(hours=26, milliseconds=500)) == "PT93600.5S"
