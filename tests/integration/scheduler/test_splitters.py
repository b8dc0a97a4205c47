"""Each splitter cuts every byte, object, item or row group into exactly one task, from any chunk on."""

import io
import random
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from botocore.exceptions import ClientError
from pydantic import TypeAdapter

from services.common.aws import Aws
from services.common.spec import Input
from services.scheduler.splitters import SplitError, index_range, lines, split
from tests.integration.scheduler.conftest import Bucket

_INPUT: TypeAdapter[Input] = TypeAdapter(Input)


async def split_all(aws: Aws, **source: Any) -> list[dict[str, Any]]:
    """The inputs of all chunks, each begun from nothing but the cursor of the one before."""
    inputs: list[dict[str, Any]] = []
    cursor: dict[str, Any] | None = None
    for _ in range(1000):
        chunk = await split(aws, _INPUT.validate_python(source), cursor)
        inputs += chunk.inputs * chunk.repeat
        cursor = chunk.cursor
        if chunk.done:
            return inputs
    raise AssertionError("a splitter that never ends")


# Lines.


async def split_lines(aws: Aws, bucket: Bucket, data: bytes, part_bytes: int, **changes: Any) -> list[bytes]:
    """The bytes of each part; together they are the data, and each begins where a line does."""
    uri = await bucket.put("in", data)
    inputs = await split_all(aws, type="lines", uri=uri, part_bytes=part_bytes, **changes)
    header = next((part["header"].encode() for part in inputs if "header" in part), b"")
    assert all(part["uri"] == uri and part["etag"] for part in inputs)
    parts = [data[part["start"] : part["end"]] for part in inputs]
    assert all(parts)
    if inputs:
        assert header + b"".join(parts) == data
    assert all(part["start"] == 0 or data[part["start"] - 1 : part["start"]] == b"\n" for part in inputs)
    return parts


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [b"", b"no final newline"])
async def test_lines_are_cut_where_lines_end(aws: Aws, bucket: Bucket, end: bytes, last: bytes) -> None:
    data = b"".join(b"line %d" % n + end for n in range(100)) + last

    parts = await split_lines(aws, bucket, data, part_bytes=100)

    assert len(parts) == pytest.approx(len(data) / 100, abs=1)
    assert all(part.endswith(end) for part in parts[:-1])


async def test_an_empty_object_has_no_parts(aws: Aws, bucket: Bucket) -> None:
    assert await split_lines(aws, bucket, b"", part_bytes=10) == []
    assert await split_lines(aws, bucket, b"", part_bytes=10, format="csv") == []


async def test_with_parts_of_a_byte_every_line_is_a_part(aws: Aws, bucket: Bucket) -> None:
    assert await split_lines(aws, bucket, b"a\n\n\nbc\nd", part_bytes=1) == [b"a\n", b"\n", b"\n", b"bc\n", b"d"]


async def test_a_line_longer_than_a_part_stays_whole(aws: Aws, bucket: Bucket) -> None:
    long = b"x" * 1000 + b"\n"

    assert await split_lines(aws, bucket, b"a\n" + long + b"b\nc\n", part_bytes=10) == [b"a\n" + long, b"b\nc\n"]
    assert await split_lines(aws, bucket, long + long[:-1], part_bytes=10) == [long, long[:-1]]
    assert await split_lines(aws, bucket, b"x" * 1000, part_bytes=7) == [b"x" * 1000]


async def test_a_line_may_be_longer_than_what_is_read_at_once(aws: Aws, bucket: Bucket) -> None:
    long = b"x" * (5 * lines.WINDOW_BYTES) + b"\n"

    parts = await split_lines(aws, bucket, b"a\n" + long + b"b\n" + long, part_bytes=3 * lines.WINDOW_BYTES)

    assert parts == [b"a\n" + long, b"b\n" + long]


@pytest.mark.parametrize("seed", range(3))
async def test_no_byte_is_lost_or_doubled_wherever_lines_and_parts_end(
    aws: Aws, bucket: Bucket, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "WINDOW_BYTES", 4)
    monkeypatch.setattr(lines, "PARTS_PER_CHUNK", 3)
    draw = random.Random(seed)
    data = b"".join(b"x" * draw.choice([0, 1, 2, 3, 9, 30]) + b"\n" * draw.randint(0, 2) for _ in range(30))

    for part_bytes in (1, 2, 5, 40):
        await split_lines(aws, bucket, data, part_bytes)


async def test_what_is_read_grows_with_the_parts_and_never_beyond_the_object(
    aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    plain = lines._Text.read

    async def counting(text: lines._Text, start: int, end: int) -> bytes:
        read.append(end - start)
        return await plain(text, start, end)

    monkeypatch.setattr(lines._Text, "read", counting)
    short = (b"x" * 99 + b"\n") * 10_000
    await split_lines(aws, bucket, short, part_bytes=100_000)
    assert len(read) == 9
    assert sum(read) <= 9 * lines.WINDOW_BYTES

    read.clear()
    await split_lines(aws, bucket, b"x" * 1_000_000, part_bytes=50_000)
    assert sum(read) <= 1_000_000


async def test_a_csvs_header_goes_with_every_part(aws: Aws, bucket: Bucket) -> None:
    data = b"a,b\r\n" + b"1,2\r\n" * 10
    uri = await bucket.put("in.csv", data)

    inputs = await split_all(aws, type="lines", uri=uri, format="csv", part_bytes=20)

    assert [part["header"] for part in inputs] == ["a,b\r\n"] * 3
    assert [part["start"] for part in inputs] == [5, 25, 45]
    assert inputs[-1]["end"] == len(data)
    assert {part["format"] for part in inputs} == {"csv"}


@pytest.mark.parametrize("data", [b"a,b\n", b"a,b"])
async def test_a_csv_of_its_header_alone_has_no_parts(aws: Aws, bucket: Bucket, data: bytes) -> None:
    assert await split_lines(aws, bucket, data, 10, format="csv") == []


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"x" * 70_000 + b"\n1\n", "longer than 65536 bytes"),
        (b"x" * 70_000, "longer than 65536 bytes"),
        (b"caf\xe9\n1\n", "not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-le"), "UTF-16"),
    ],
)
async def test_a_csv_without_a_readable_header_is_refused(aws: Aws, bucket: Bucket, data: bytes, why: str) -> None:
    with pytest.raises(SplitError, match=why) as refused:
        await split_lines(aws, bucket, data, 10, format="csv")
    assert "s3://" in str(refused.value)


async def test_a_header_may_be_as_long_as_the_limit(aws: Aws, bucket: Bucket) -> None:
    header = b"x" * (lines.HEADER_BYTES_MAX - 1) + b"\n"

    assert await split_lines(aws, bucket, header + b"1\n2\n", 2, format="csv") == [b"1\n", b"2\n"]


async def test_more_parts_than_a_job_may_have_are_refused_before_any_is_made(
    aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "TASKS_MAX", 10)

    assert len(await split_lines(aws, bucket, b"x\n" * 9, 2)) == 9
    with pytest.raises(SplitError, match="set a larger part_bytes"):
        await split_lines(aws, bucket, b"x\n" * 10, 2)


async def test_an_object_replaced_between_two_chunks_is_noticed(
    aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "PARTS_PER_CHUNK", 2)
    source = _INPUT.validate_python({"type": "lines", "uri": await bucket.put("in", b"a\n" * 20), "part_bytes": 4})
    chunk = await split(aws, source, None)
    assert not chunk.done
    await bucket.put("in", b"b\n" * 20)

    with pytest.raises(ClientError) as error:
        await split(aws, source, chunk.cursor)
    assert error.value.response["Error"]["Code"] in ("PreconditionFailed", "412")


# Objects.


async def put_all(bucket: Bucket, *keys: str) -> None:
    for key in keys:
        await bucket.put(key, b"" if key.endswith("/") else b"x")


async def split_objects(aws: Aws, bucket: Bucket, prefix: str, **changes: Any) -> list[str]:
    inputs = await split_all(aws, type="objects", prefix=f"s3://{bucket.name}/{prefix}", **changes)
    assert all(part["type"] == "object" and part["etag"] for part in inputs)
    return [part["uri"].removeprefix(f"s3://{bucket.name}/") for part in inputs]


async def test_every_object_under_the_prefix_is_a_task(aws: Aws, bucket: Bucket) -> None:
    await put_all(bucket, "in/a b.txt", "in/c/d.txt", "in/ü%20+.txt", "in/", "in/c/", "inner", "out")

    assert await split_objects(aws, bucket, "in/") == ["in/a b.txt", "in/c/d.txt", "in/ü%20+.txt"]
    assert await split_objects(aws, bucket, "in") == ["in/a b.txt", "in/c/d.txt", "in/ü%20+.txt", "inner"]
    assert len(await split_objects(aws, bucket, "")) == 5


async def test_include_is_a_glob_on_the_rest_of_the_key(aws: Aws, bucket: Bucket) -> None:
    await put_all(bucket, "in/a.csv", "in/b.CSV", "in/c.txt", "in/2026/d.csv", "csv")

    assert await split_objects(aws, bucket, "in/", include="*.csv") == ["in/2026/d.csv", "in/a.csv"]
    assert await split_objects(aws, bucket, "in/", include="?.*") == ["in/a.csv", "in/b.CSV", "in/c.txt"]


async def test_a_prefix_that_gives_no_task_is_an_error(aws: Aws, bucket: Bucket) -> None:
    await put_all(bucket, "in/a.csv", "folder/")

    for prefix, include in (("nowhere/", "*"), ("in/", "*.txt"), ("folder/", "*")):
        with pytest.raises(SplitError, match=r"no object under s3://.* matches"):
            await split_objects(aws, bucket, prefix, include=include)


async def test_a_listing_of_several_pages_is_a_chunk_a_page(aws: Aws, bucket: Bucket, monkeypatch: Any) -> None:
    keys = [f"in/{n:02}" for n in range(10)]
    await put_all(bucket, *keys)
    plain = aws.s3.list_objects_v2

    async def short_pages(**arguments: Any) -> Any:
        return await plain(**arguments, MaxKeys=3)

    monkeypatch.setattr(aws.s3, "list_objects_v2", short_pages)

    assert await split_objects(aws, bucket, "in/") == keys
    assert await split_objects(aws, bucket, "in/", include="*9") == ["in/09"]


# Items, ranges.


async def test_every_item_is_a_task(aws: Aws) -> None:
    items = [1, "a", None, {"k": [1.5]}, [], False]

    assert await split_all(aws, type="items", items=items) == [{"type": "item", "value": item} for item in items]


async def test_a_range_may_need_several_chunks(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_range, "TASKS_PER_CHUNK", 7)

    for count in (1, 6, 7, 8, 21, 22):
        assert await split_all(aws, type="range", count=count) == [{"type": "index", "count": count}] * count


# Parquet.


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
async def test_what_is_no_parquet_is_refused_with_the_reason(aws: Aws, bucket: Bucket, data: bytes, why: str) -> None:
    with pytest.raises(SplitError, match=why) as refused:
        await split_parquet(aws, bucket, data)
    assert f"s3://{bucket.name}/in.parquet" in str(refused.value)
