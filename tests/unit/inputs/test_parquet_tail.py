"""Row groups of a Parquet file, moved with a new footer into a file of their own: unchanged bytes, any reader."""

import io
import struct
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow
import pyarrow.parquet
import pyarrow.parquet.encryption
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inputs.chunk import SplitError
from services.inputs.parquet import thrift
from services.inputs.parquet.footer import MAGIC, footer_bytes
from services.inputs.parquet.tail import make_tail, parse_tail

ROWS = 60
TABLE = pyarrow.table(
    {
        "n": range(ROWS),
        "word": [["a", "bb", None][n % 3] for n in range(ROWS)],
        "list": [[n] * (n % 4) for n in range(ROWS)],
        "s": [{"x": n / 3, "t": str(n)} if n % 5 else None for n in range(ROWS)],
        "at": pyarrow.array([datetime(2026, 1, 1, n % 24) for n in range(ROWS)], pyarrow.timestamp("ns")),
        "flag": [n % 2 == 0 for n in range(ROWS)],
    }
)


def write(**options: Any) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(TABLE, sink, **({"row_group_size": 10} | options))
    return sink.getvalue()


def cut(data: bytes, numbers: range) -> bytes:
    """As the worker does."""
    footer = data[-footer_bytes("s3://b/k", data, len(data)) :]
    tail = parse_tail("s3://b/k", footer)
    numbers = numbers[: len(tail.row_groups)]
    part, moved = bytearray(MAGIC), []
    for group in map(tail.row_group, numbers):
        moved.append((group, len(part) - group.start))
        part += data[group.start : group.end]
    return bytes(part + make_tail(tail, moved))


def read(data: bytes) -> Any:
    return pyarrow.parquet.read_table(io.BytesIO(data))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False, "compression": "none"},
        {"compression": "zstd", "data_page_version": "2.0", "write_page_index": True},
        {"use_deprecated_int96_timestamps": True, "version": "1.0"},
        {"write_statistics": False, "store_schema": False},
        {"data_page_size": 16, "write_page_checksum": True, "bloom_filter_options": {"n": True, "word": True}},
        {"row_group_size": 1},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_every_part_has_the_rows_and_the_schema_of_its_row_groups(options: dict[str, Any], tmp_path: Path) -> None:
    data = write(**options)
    whole = pyarrow.parquet.ParquetFile(io.BytesIO(data))
    groups, rows = whole.num_row_groups, options.get("row_group_size", 10)
    for first, last in [(0, groups), (0, 1), (groups - 1, groups), (1, 3), (groups, groups)]:
        part = cut(data, range(first, last))
        assert read(part).equals(read(data).slice(first * rows, (last - first) * rows))
        found = pyarrow.parquet.ParquetFile(io.BytesIO(part), page_checksum_verification=True)
        assert found.schema_arrow.equals(whole.schema_arrow, check_metadata=True)
        found.read()
        assert found.metadata.created_by == whole.metadata.created_by and len(part) <= len(data)
        (tmp_path / "part.parquet").write_bytes(part)
        ids = duckdb.sql(f"SELECT n FROM '{tmp_path}/part.parquet' WHERE n >= 0 AND word IS NOT NULL ORDER BY n")
        assert [n for (n,) in ids.fetchall()] == [n for n in range(first * rows, last * rows) if n % 3 != 2]


def test_files_of_duckdb_are_cut_too(tmp_path: Path) -> None:
    path = tmp_path / "duck.parquet"
    duckdb.sql(f"COPY (SELECT i, i % 9 AS d FROM range(10000) t(i)) TO '{path}' (ROW_GROUP_SIZE 2048)")
    data = path.read_bytes()
    assert read(cut(data, range(1, 3))).equals(read(data).slice(2048, 4096))


def test_a_part_of_a_part_is_a_part() -> None:
    data = write()
    assert read(cut(cut(data, range(2, 5)), range(1, 2))).equals(read(data).slice(30, 10))


@given(st.data())
def test_damage_is_refused_or_does_not_matter(data: st.DataObject) -> None:
    whole = bytearray(WHOLE)
    length = footer_bytes("s3://b/k", WHOLE, len(WHOLE))
    position = data.draw(st.integers(len(whole) - length, len(whole) - 9))
    whole[position] = data.draw(st.integers(0, 255))
    try:
        cut(bytes(whole), range(1))
    except SplitError as error:
        assert str(error).startswith("s3://b/k")


WHOLE = write()


def test_what_can_not_be_moved_is_refused_by_name() -> None:
    with pytest.raises(SplitError, match="encrypted footer"):
        footer_bytes("s3://b/k", bytes(100) + b"PARE", 104)
    footer = WHOLE[-footer_bytes("s3://b/k", WHOLE, len(WHOLE)) :]
    encrypted = [*thrift.fields(footer), thrift.Field(8, thrift.STRUCT, b"\0")]
    with pytest.raises(SplitError, match="encrypted columns"):
        parse_tail("s3://b/k", thrift.struct(encrypted) + footer[-8:])


def test_long_gaps_between_numbers_of_fields_are_kept() -> None:
    sparse = [thrift.Field(1, 5, b"\2"), thrift.Field(400, 5, b"\4"), thrift.Field(401, 7, struct.pack("<d", 1.5))]
    assert list(thrift.fields(thrift.struct(sparse))) == sparse
