"""Parquet, Arrow, ORC, Avro: cut between what these formats are made of, read off a footer or found by a marker."""

import io
import random
import re

import fastavro
import pyarrow
import pyarrow.ipc
import pyarrow.orc
import pyarrow.parquet
import pytest

from services.inputs.avro import split as avro
from services.inputs.chunk import SplitError
from services.platform.aws import Aws
from tests.integration.inputs.conftest import split_all
from tests.integration.scheduler.conftest import Bucket


def parquet(rows: int, row_group_rows: int, columns: int = 1) -> bytes:
    table = pyarrow.table({f"column_{n}": range(rows) for n in range(columns)})
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, row_group_size=row_group_rows)
    return sink.getvalue()


async def split_parquet(aws: Aws, bucket: Bucket, data: bytes, row_groups: int = 1) -> list[tuple[int, int]]:
    uri = await bucket.put("in.parquet", data)
    inputs = await split_all(aws, type="parquet", uri=uri, row_groups=row_groups)
    assert all(part["type"] == "row_groups" and part["uri"] == uri and part["etag"] for part in inputs)
    return [(part["first"], part["count"]) for part in inputs]


async def test_parquet_is_cut_between_row_groups(aws: Aws, bucket: Bucket) -> None:
    data = parquet(rows=70, row_group_rows=10)

    assert await split_parquet(aws, bucket, data) == [(n, 1) for n in range(7)]
    assert await split_parquet(aws, bucket, data, 3) == [(0, 3), (3, 3), (6, 1)]
    assert await split_parquet(aws, bucket, data, 100) == [(0, 7)]
    assert await split_parquet(aws, bucket, parquet(rows=0, row_group_rows=1)) in ([], [(0, 1)])


async def test_a_footer_may_be_longer_than_the_first_read(aws: Aws, bucket: Bucket) -> None:
    data = parquet(rows=40, row_group_rows=1, columns=40)
    assert int.from_bytes(data[-8:-4], "little") > 65_536

    assert len(await split_parquet(aws, bucket, data)) == 40


GOOD = parquet(rows=10, row_group_rows=5)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is not a Parquet file"),
        (b"PAR1", "is not a Parquet file"),
        (b"a,b\n1,2\n" * 100, "is not a Parquet file"),
        (GOOD[:-20], "is not a Parquet file"),
        (GOOD[:-8] + (1 << 30).to_bytes(4, "little") + b"PAR1", "names a footer of 1073741832 bytes"),
        (GOOD[:-8] + (1 << 20).to_bytes(4, "little") + b"PAR1", "can't be read"),
        (b"PAR1" + b"\xff" * 100 + (100).to_bytes(4, "little") + b"PAR1", "can't be read"),
        (b"PAR1" + bytes(4) + b"PAR1", "can't be read"),
    ],
)
async def test_what_is_not_parquet_is_refused_with_the_reason(aws: Aws, bucket: Bucket, data: bytes, why: str) -> None:
    with pytest.raises(SplitError, match=why) as refused:
        await split_parquet(aws, bucket, data)
    assert f"s3://{bucket.name}/in.parquet" in str(refused.value)


async def test_row_groups_are_grouped_to_the_target_size(aws: Aws, bucket: Bucket) -> None:
    uri = await bucket.put("in.parquet", parquet(rows=100, row_group_rows=10))
    (whole,) = await split_all(aws, type="parquet", uri=uri)
    assert (whole["first"], whole["count"]) == (0, 10)

    for size, count in (({"part_bytes": whole["bytes"] // 5}, 5), ({"parts": 3}, 3), ({"part_bytes": 1}, 10)):
        parts = await split_all(aws, type="parquet", uri=uri, **size)
        assert len(parts) == count
        assert sum(part["bytes"] for part in parts) == whole["bytes"]
        assert [part["first"] for part in parts[1:]] == [part["first"] + part["count"] for part in parts[:-1]]


def arrow(batches: int) -> bytes:
    table = pyarrow.table(
        {"n": range(batches * 10), "word": pyarrow.array(["a", "b"] * 5 * batches).dictionary_encode()}
    )
    sink = io.BytesIO()
    with pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    return sink.getvalue()


async def test_arrow_is_cut_between_record_batches(aws: Aws, bucket: Bucket) -> None:
    uri = await bucket.put("in.arrow", arrow(7))
    assert [(part["first"], part["count"]) for part in await split_all(aws, type="arrow", uri=uri)] == [(0, 7)]
    parts = await split_all(aws, type="arrow", uri=uri, part_bytes=1)
    assert [(part["type"], part["first"], part["count"]) for part in parts] == [
        ("record_batches", number, 1) for number in range(7)
    ]

    long = await bucket.put("in.arrow", arrow(4000))  # its footer does not fit the first read
    assert sum(part["count"] for part in await split_all(aws, type="arrow", uri=long, parts=9)) == 4000
    for data in (b"", b"ARROW1", arrow(2)[:-7], arrow(2)[:-10] + b"\xff\xff\xff\x7fARROW1", bytes(99) + b"ARROW1"):
        with pytest.raises(SplitError, match="s3://"):
            await split_all(aws, type="arrow", uri=await bucket.put("bad.arrow", data))


def orc(rows: int) -> bytes:
    sink = io.BytesIO()
    noise = [random.Random(n).randbytes(50) for n in range(rows)]
    schema = pyarrow.schema({"n": pyarrow.int64(), "s": pyarrow.binary()})
    table = pyarrow.table({"n": range(rows), "s": noise}, schema)
    pyarrow.orc.write_table(table, sink, stripe_size=65_536)
    return sink.getvalue()


async def test_orc_is_cut_between_stripes(aws: Aws, bucket: Bucket) -> None:
    data = orc(20_000)
    stripes = pyarrow.orc.ORCFile(io.BytesIO(data)).nstripes
    uri = await bucket.put("in.orc", data)
    [whole] = await split_all(aws, type="orc", uri=uri)
    assert (whole["type"], whole["format"], whole["first"], whole["count"]) == ("numbered_blocks", "orc", 0, stripes)
    assert whole["uri"] == uri and whole["etag"] and 0.9 * len(data) < whole["bytes"] < len(data)

    each = await split_all(aws, type="orc", uri=uri, part_bytes=1)
    assert [(part["first"], part["count"]) for part in each] == [(number, 1) for number in range(stripes)]
    assert sum(part["bytes"] for part in each) == whole["bytes"]
    assert len(await split_all(aws, type="orc", uri=uri, parts=3)) == 3
    for empty in (orc(0), b""):  # Hive writes a file without rows like this, too
        assert await split_all(aws, type="orc", uri=await bucket.put("empty.orc", empty)) == []
    for bad in (b"ORC", data[:-1], data[:-40], data[-40:], bytes(100)):
        with pytest.raises(SplitError, match=f"s3://{bucket.name}/bad.orc"):
            await split_all(aws, type="orc", uri=await bucket.put("bad.orc", bad))


@pytest.mark.parametrize("window_bytes", [40, 65_536])
async def test_avro_is_cut_at_sync_markers(
    aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, window_bytes: int
) -> None:
    monkeypatch.setattr(avro, "WINDOW_BYTES", window_bytes)
    schema = {"type": "record", "name": "r", "fields": [{"name": "n", "type": "int"}, {"name": "s", "type": "bytes"}]}
    records = [{"n": n, "s": random.Random(n).randbytes(n % 90)} for n in range(3000)]
    sink = io.BytesIO()
    fastavro.writer(sink, schema, records, sync_interval=1000)
    data = sink.getvalue()
    uri = await bucket.put("in.avro", data)

    parts = await split_all(aws, type="avro", uri=uri, part_bytes=10_000)
    blocks = [found.end() for found in re.finditer(re.escape(data[-16:]), data)]
    targets = range(parts[0]["start"] + 10_000, len(data), 10_000)
    assert [part["start"] for part in parts[1:]] == [min(b for b in blocks if b >= target) for target in targets]
    read = []
    for part in parts:
        read += fastavro.reader(io.BytesIO(data[: part["header_end"]] + data[part["start"] : part["end"]]))
    assert read == records
    for bad in (b"", data[:20], b"Obj\x01" + b"\xff" * 100):
        with pytest.raises(SplitError, match="s3://"):
            await split_all(aws, type="avro", uri=await bucket.put("bad.avro", bad))


def twice(format: str, nested: bool) -> bytes:
    column = pyarrow.array([1])
    struct = pyarrow.StructArray.from_arrays([column, column], ["value", "value"])
    table = pyarrow.table([column, struct], ["id", "s"]) if nested else pyarrow.table([column] * 2, ["value"] * 2)
    sink = io.BytesIO()
    if format == "arrow":
        with pyarrow.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    elif format == "orc":
        pyarrow.orc.write_table(table, sink)
    else:
        pyarrow.parquet.write_table(table, sink)
    return sink.getvalue()


@pytest.mark.parametrize("nested", [False, True], ids=["columns", "fields"])
@pytest.mark.parametrize("format", ["parquet", "arrow", "orc"])
async def test_two_columns_of_one_name_are_refused(aws: Aws, bucket: Bucket, format: str, nested: bool) -> None:
    uri = await bucket.put(f"in.{format}", twice(format, nested))
    with pytest.raises(SplitError, match=f"names the {'field' if nested else 'column'} 'value'.* twice: rename one"):
        await split_all(aws, type=format, uri=uri)
