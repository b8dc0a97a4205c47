"""Lines: every byte is in exactly one part, each part begins where a record does, from any chunk on."""

import random
from typing import Any

import pytest
from botocore.exceptions import ClientError

from services.inputs import ranges, sizes
from services.inputs.chunk import SplitError
from services.inputs.lines import split as lines
from services.inputs.split import split
from services.platform.aws import Aws
from services.platform.reads import PinnedObject
from tests.integration.inputs.conftest import INPUT, SLOTS, split_all
from tests.integration.scheduler.conftest import Bucket


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
    monkeypatch.setattr(ranges, "PARTS_PER_CHUNK", 3)
    draw = random.Random(seed)
    data = b"".join(b"x" * draw.choice([0, 1, 2, 3, 9, 30]) + b"\n" * draw.randint(0, 2) for _ in range(30))

    for part_bytes in (1, 2, 5, 40):
        await split_lines(aws, bucket, data, part_bytes)


async def test_what_is_read_grows_with_the_parts_and_never_beyond_the_object(
    aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    plain = PinnedObject.read

    async def counting(object_: PinnedObject, start: int, end: int) -> bytes:
        data = await plain(object_, start, end)
        read.append(len(data))
        return data

    monkeypatch.setattr(PinnedObject, "read", counting)
    short = (b"x" * 99 + b"\n") * 10_000
    await split_lines(aws, bucket, short, part_bytes=100_000)
    assert len(read) == 10
    assert sum(read) <= 10 * lines.WINDOW_BYTES

    read.clear()
    await split_lines(aws, bucket, b"x" * 1_000_000, part_bytes=50_000)
    assert sum(read) <= 1_000_000 + lines.WINDOW_BYTES


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
        ("a,b\n1,2\n".encode("utf-16"), "begins like UTF-16 text, not like lines"),
        (b'"a\nb",c\n1,2\n', "set multiline: true"),
        (b"a,b\r1,2\r3,4\r", "lines must end in LF or CRLF"),
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
    monkeypatch.setattr(sizes, "TASKS_MAX", 10)

    assert len(await split_lines(aws, bucket, b"x\n" * 9, 2)) == 9
    with pytest.raises(SplitError, match="set a larger part_bytes"):
        await split_lines(aws, bucket, b"x\n" * 10, 2)


async def test_an_object_replaced_between_two_chunks_is_noticed(
    aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "PARTS_PER_CHUNK", 2)
    source = INPUT.validate_python({"type": "lines", "uri": await bucket.put("in", b"a\n" * 20), "part_bytes": 4})
    chunk = await split(aws.s3, source, None, SLOTS)
    assert not chunk.done
    await bucket.put("in", b"b\n" * 20)

    with pytest.raises(ClientError) as error:
        await split(aws.s3, source, chunk.cursor, SLOTS)
    assert error.value.response["Error"]["Code"] in ("PreconditionFailed", "412")


async def test_a_byte_order_mark_is_not_data(aws: Aws, bucket: Bucket) -> None:
    mark = b"\xef\xbb\xbf"
    uri = await bucket.put("in", mark + b"a,b\n1,2\n3,4\n")

    (part, *others) = await split_all(aws, type="lines", uri=uri, format="csv", part_bytes=4)
    assert (part["header"], part["start"], part["end"], len(others)) == ("a,b\n", 7, 11, 1)
    for options in ({"format": "csv", "header": False}, {}):
        (part,) = await split_all(aws, type="lines", uri=uri, **options)
        assert (part["start"], part["end"], "header" in part) == (3, 15, False)
    assert await split_all(aws, type="lines", uri=await bucket.put("in", mark)) == []


async def test_what_a_reader_has_to_know_goes_with_each_part(aws: Aws, bucket: Bucket) -> None:
    uri = await bucket.put("in", b"\n\r\na|b\n1|2\n3|4\n")

    options = {"delimiter": "|", "quote": None, "escape": "!"}
    parts = await split_all(aws, type="lines", uri=uri, format="csv", part_bytes=4, **options)
    assert [(part["header"], part["csv"]) for part in parts] == [("a|b\n", options)] * 2
    (part,) = await split_all(aws, type="lines", uri=uri, format="csv", quote=None)
    assert (part["header"], part["csv"]) == ("a|b\n", {"quote": None})
    assert "csv" not in (await split_all(aws, type="lines", uri=uri, format="tsv", delimiter="\t", quote='"'))[0]


async def test_an_escaped_line_end_is_not_a_place_to_cut(aws: Aws, bucket: Bucket) -> None:
    uri = await bucket.put("in", b"h\n" + b"a\\\n" * 10 + b"b\n" + b"c\n")

    parts = await split_all(aws, type="lines", uri=uri, format="csv", escape="\\", part_bytes=2)
    assert [(part["start"], part["end"]) for part in parts] == [(2, 34), (34, 36)]


async def test_records_of_one_length_need_no_reads(aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PinnedObject, "read", None)
    uri = await bucket.put("in", b"0123456789" * 10)

    parts = await split_all(aws, type="lines", uri=uri, format="fixed", record_bytes=10, part_bytes=25)
    assert [(part["start"], part["end"], part["record_bytes"]) for part in parts] == [
        (0, 30, 10),
        (30, 60, 10),
        (60, 90, 10),
        (90, 100, 10),
    ]
    with pytest.raises(SplitError, match="not a multiple of record_bytes = 30"):
        await split_all(aws, type="lines", uri=uri, format="fixed", record_bytes=30)


async def test_the_size_of_parts_is_given_or_suggested_by_the_slots(
    aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "PART_BYTES_MIN", 100)
    monkeypatch.setattr(sizes, "PART_BYTES_MAX", 1000)
    uri = await bucket.put("in", b"123456789\n" * 1000)

    async def count(slots: int, **size: int) -> int:
        return len(await split_all(aws, slots=slots, type="lines", uri=uri, **size))

    assert await count(7, parts=10) == 10
    assert await count(7, part_bytes=2500) == 4
    assert await count(5) == 20  # four a slot
    assert await count(1) == 10  # of 1000 bytes at most
    assert await count(1000) == 100  # of 100 bytes at least
