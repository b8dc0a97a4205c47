"""Split tasks: what they list is, part after part, every record of the object once, and each part is whole."""

import gzip
import random
import shutil
import struct
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
import zstandard

from services.contract.layout import Layout
from services.contract.task_error import TaskError
from services.contract.task_input import parse_input
from services.engine.attempt import ClaimedTask
from services.inputs.reach import Reach
from services.inputs.split import split_on_grid
from services.platform.aws import Aws
from services.platform.decompress import Decompressor
from services.platform.settings import Settings
from services.worker.child.prepare import prepare
from services.worker.split import blocks, run_grid_split, stream
from services.worker.split.meter import Meter
from services.worker.task.inputs import fetch_input
from tests.integration.inputs.conftest import INPUT

LINES = b"".join(b'%d,"name, %d",%s\n' % (n, n, b"x" * (n % 50)) for n in range(20_000))
QUOTED = b"".join(b'%d,"line 1\nline ""%d""\r\n",%s\n' % (n, n, b"y" * (n % 20)) for n in range(20_000))


def gzipped(data: bytes) -> bytes:
    """The same whenever it is made: it is part of tests' names, which all processes of a run must agree on."""
    return gzip.compress(data, mtime=0)


def bgzip(data: bytes, block_bytes: int = 8_000, level: int = 9) -> bytes:
    """As the tool of that name writes it."""
    blocks = []
    for start in [*range(0, len(data), block_bytes), len(data)]:
        raw = gzip.compress(data[start : start + block_bytes], level)[10:]
        size = 18 + len(raw) - 1
        blocks.append(b"\x1f\x8b\x08\x04" + bytes(6) + struct.pack("<H2sHH", 6, b"BC", 2, size) + raw)
    return b"".join(blocks)


def seekable_zstd(data: bytes, frame_bytes: int = 30_000) -> bytes:
    frames = [data[start : start + frame_bytes] for start in range(0, len(data), frame_bytes)]
    compressed = [zstandard.compress(frame) for frame in frames]
    table = b"".join(struct.pack("<II", len(c), len(f)) for c, f in zip(compressed, frames, strict=True))
    table += struct.pack("<IBI", len(frames), 0, 0x8F92EAB1)
    return b"".join(compressed) + struct.pack("<II", 0x184D2A5E, len(table)) + table


class Splits:
    """Splits objects as a split task does, and makes the parts' inputs as their tasks would find them."""

    def __init__(self, s3: Any, bucket: str, directory: Path) -> None:
        self.s3 = s3
        self.bucket = bucket
        self.directory = directory / "attempt"
        self.items: list[dict[str, Any]] = []

    async def __call__(self, name: str, data: bytes, **source: Any) -> list[bytes]:
        await self.s3.put_object(Bucket=self.bucket, Key=name, Body=data)
        input = INPUT.validate_python({"type": "lines", "uri": f"s3://{self.bucket}/{name}", **source})
        chunk = await split_on_grid(self.s3, [input], None, 2)
        return await self.run(chunk.inputs[0])

    async def run(self, task_input: dict[str, Any]) -> list[bytes]:
        place = partial(Layout(self.bucket).attempt, UUID(int=1), 0, 0, 1)
        self.meter = Meter(self.s3)
        shutil.rmtree(self.directory, ignore_errors=True)  # of the attempt before
        self.directory.mkdir()
        listing, count = await run_grid_split(
            self.meter, place, Reach(Settings()), self.task(task_input), self.directory
        )
        self.items = [orjson.loads(line) for line in listing.read_bytes().splitlines()]
        assert count == len(self.items)
        return [await self.part(number, item) for number, item in enumerate(self.items)]

    async def part(self, number: int, item: dict[str, Any]) -> bytes:
        directory = self.directory / f"{number}"
        directory.mkdir(exist_ok=True)
        input = await fetch_input(self.s3, self.task(item), directory)
        prepare(input.steps, input.path)
        return input.path.read_bytes()

    def task(self, value: dict[str, Any]) -> ClaimedTask:
        return ClaimedTask(UUID(int=2), UUID(int=1), 0, 0, 1, parse_input(value))


@pytest.fixture
def splits(aws: Aws, settings: Settings, tmp_path: Path) -> Splits:
    return Splits(aws.s3, settings.bucket, tmp_path)


def check(parts: list[bytes], header: bytes, body: bytes, part_bytes: int) -> None:
    """Each part has the header; the rest of them is the body; none is much larger than asked for."""
    assert all(part.startswith(header) for part in parts)
    assert b"".join(part[len(header) :] for part in parts) == body
    assert len(parts) == pytest.approx(len(body) / part_bytes, abs=len(body) / part_bytes / 3)


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.csv.gz", gzip.compress(b"h\n" + LINES[:300_000]) + gzip.compress(LINES[300_000:]) + bytes(512), "bytes"),
        ("a.csv.zst", zstandard.compress(b"h\n" + LINES[:300_000]) + zstandard.compress(LINES[300_000:]), "bytes"),
        ("a.csv.gz", bgzip(b"h\n" + LINES), "blocks"),
        ("a.csv.bgz", bgzip(b"h\n" + LINES[:90_000]) + gzip.compress(LINES[90_000:]), "bytes"),
        ("a.csv.zst", seekable_zstd(b"h\n" + LINES), "blocks"),
    ],
)
async def test_compressed_lines(splits: Splits, name: str, data: bytes, kind: str) -> None:
    parts = await splits(name, data, format="csv", part_bytes=100_000)

    check(parts, b"h\n", LINES, 100_000)
    assert {item["type"] for item in splits.items} == {kind}
    if kind == "blocks":
        assert {item["uri"] for item in splits.items} == {f"s3://{splits.bucket}/{name}"}, "nothing is written again"


@pytest.mark.parametrize(("name", "compress"), [("a.gz", bgzip), ("a.zst", seekable_zstd)])
async def test_a_line_may_be_longer_than_blocks_and_parts(splits: Splits, name: str, compress: Any) -> None:
    long = random.Random(2).randbytes(200_000).hex().encode() + b"\n"
    data = long + b"short\n" * 5000 + long + long

    parts = await splits(name, compress(data), part_bytes=20_000)
    assert b"".join(parts) == data and len(parts) > 3
    assert all(part.endswith(b"\n") for part in parts)
    assert {item["type"] for item in splits.items} == {"blocks"}


@pytest.mark.parametrize(
    ("name", "begin", "end", "source"),
    [
        ("a.jsonl.gz", b"1\n", b"\n2\n", {}),
        ("a.csv.gz", b'h\n1\n"', b'"\n2\n', {"format": "csv", "multiline": True}),
        ("a.xml.gz", b"<all><r>1</r><r>", b"</r><r>2</r></all>", {"type": "xml", "record_tag": "r"}),
    ],
)
async def test_a_record_that_is_too_long_does_not_fill_the_disk(
    splits: Splits, monkeypatch: pytest.MonkeyPatch, name: str, begin: bytes, end: bytes, source: dict[str, Any]
) -> None:
    monkeypatch.setattr(stream, "RECORD_BYTES_MAX", 3_000_000)
    data = gzipped(begin + b"x" * 50_000_000 + end)
    with pytest.raises(TaskError, match=rf"{name}: the record at byte \d+ of the text is longer than 3000000 bytes"):
        await splits(name, data, part_bytes=1_000_000, **source)
    assert max(file.stat().st_size for file in splits.directory.iterdir()) < 6_000_000


@pytest.mark.parametrize(("name", "compress"), [("a.gz", gzip.compress), ("a.bgz", bgzip), ("a.zst", seekable_zstd)])
async def test_nothing_is_decompressed_where_the_heartbeat_beats(
    splits: Splits, monkeypatch: pytest.MonkeyPatch, name: str, compress: Any
) -> None:
    threads: list[int] = []

    class Watched(Decompressor):
        def feed(self, data: bytes) -> Iterator[bytes]:
            threads.append(threading.get_ident())
            return super().feed(data)

    monkeypatch.setattr(blocks, "Decompressor", Watched)
    monkeypatch.setattr(stream, "Decompressor", Watched)

    assert b"".join(await splits(name, compress(LINES), part_bytes=50_000)) == LINES
    assert threads and threading.get_ident() not in threads


async def test_what_a_split_costs_is_metered(splits: Splits) -> None:
    data = b"h,i\n" + QUOTED
    await splits("a.csv", data, format="csv", multiline=True, part_bytes=77_777)
    assert (splits.meter.bytes_in, splits.meter.bytes_out) == (len(data), 0), "the listing is put by the attempt"
    assert splits.meter.cpu_seconds > 0

    compressed = zstandard.compress(data)
    await splits("a.csv.zst", compressed, format="csv", multiline=True, part_bytes=77_777)
    assert (splits.meter.bytes_in, splits.meter.bytes_out) == (len(compressed), len(QUOTED)), "headers are not put"

    compressed = bgzip(LINES)
    await splits("a.bgz", compressed, part_bytes=500_000)
    assert splits.meter.bytes_in > 0 and splits.meter.bytes_out == 0
    assert splits.meter.cpu_seconds > 0


async def test_what_looks_like_a_block_within_one_is_not_a_block(splits: Splits) -> None:
    trap = bgzip(b"")[:18] + b"\n"
    data = b"text\n" + b"".join(trap + b"%d\n" % number for number in range(5000))

    parts = await splits("a.gz", bgzip(data, level=0), part_bytes=5_000)
    assert b"".join(parts) == data and len(parts) > 10
    assert {item["type"] for item in splits.items} == {"blocks"}


async def test_quoted_newlines_compressed_or_not(splits: Splits) -> None:
    body, header = QUOTED, b'a,"b\nb",c\n'
    text = b"\xef\xbb\xbf\n" + header + body
    options = {"format": "csv", "part_bytes": 77_777}

    check(await splits("a.csv", text, multiline=True, **options), header, body, 77_777)
    assert {item["uri"] for item in splits.items} == {f"s3://{splits.bucket}/a.csv"}
    assert all(item["etag"] for item in splits.items)
    check(await splits("a.csv.gz", gzip.compress(text), multiline=True, **options), header, body, 77_777)
    check(await splits("a.csv.gz", bgzip(text), multiline=True, **options), header, body, 77_777)


async def test_other_formats(splits: Splits) -> None:
    data = bytes(random.Random(1).randbytes(100 * 997))

    parts = await splits("a.dat.gz", gzip.compress(data), format="fixed", record_bytes=997, part_bytes=10_000)
    assert b"".join(parts) == data and {len(part) % 997 for part in parts} == {0}
    check(await splits("a.gz", gzip.compress(LINES), part_bytes=50_000), b"", LINES, 50_000)
    for compress in (gzip.compress, bgzip, seekable_zstd):
        name = "a.zst" if compress is seekable_zstd else "a.gz"
        assert await splits(name, compress(b"")) == []
        assert await splits(name, compress(b"\xef\xbb\xbfa,b"), format="csv") == []
    assert b"".join(await splits("a.gz", gzip.compress(b"x" * 3_000_000), part_bytes=10)) == b"x" * 3_000_000


@pytest.mark.parametrize(
    ("name", "data", "source", "why"),
    [
        ("a.gz", gzipped(LINES)[:-3000], {}, "truncated: it breaks off at its compressed byte"),
        (
            "a.gz",
            gzipped(LINES) + b"more",
            {},
            "something that is not gzip follows the gzip stream at its compressed byte",
        ),
        ("a.zst", b"no zstd at all", {}, "this is not zstd: it begins with the bytes 6e 6f 20"),
        ("a.zst", zstandard.compress(LINES)[:-50], {}, "truncated"),
        ("a.gz", gzipped(b"abcde"), {"format": "fixed", "record_bytes": 2}, "not a multiple of record_bytes = 2"),
        ("a.csv", b'h\n1\n"2\n3\n', {"format": "csv", "multiline": True}, "quote at byte 4 is not closed"),
        ("a.csv.gz", gzipped(b'h\n1\n"2\n3\n'), {"format": "csv"}, "quote at byte 4 is not closed"),
        ("a.csv.gz", gzipped("h\n1\n".encode("utf-16")), {"format": "csv"}, "UTF-16"),
    ],
)
async def test_what_can_not_be_split_says_why(
    splits: Splits, name: str, data: bytes, source: dict[str, Any], why: str
) -> None:
    with pytest.raises(TaskError, match=why) as failed:
        await splits(name, data, **source)
    assert (failed.value.type, failed.value.retryable) == ("input_invalid", False)
    assert f"s3://{splits.bucket}/{name}" in failed.value.message


async def test_an_object_replaced_since_the_job_began_is_noticed(splits: Splits) -> None:
    await splits("a.gz", gzip.compress(LINES))
    uri = f"s3://{splits.bucket}/a.gz"
    source = INPUT.validate_python({"type": "lines", "uri": uri})
    (task_input,) = (await split_on_grid(splits.s3, [source], None, 2)).inputs
    await splits.s3.put_object(Bucket=splits.bucket, Key="a.gz", Body=gzip.compress(b"another"))

    with pytest.raises(TaskError) as failed:
        await splits.run(task_input)
    assert failed.value.type == "input_changed"
