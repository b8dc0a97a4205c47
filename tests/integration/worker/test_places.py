"""Where a reject says that it comes from: what is there in the object is the record, byte for byte."""

import gzip
import re
import zlib
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.integration.worker.conftest import InProcessGrid
from tests.integration.worker.split.test_grid_split import Splits, bgzip, seekable_zstd

COLUMNS = b"id,name\n"
EVEN = [b"%09d\n" % number for number in range(5000)]  # 800 of them fill a block
RAGGED = [b'{"n": %d, "x": "%s"}\n' % (number, b"x" * (number % 90)) for number in range(2000)]
LONG = [b"short\n", b"l" * 60_000 + b"\n"] * 4
TABLE = [b"%d,%s\n" % (number, b"n" * (number % 90) + b",more" * (number % 5 == 0)) for number in range(3000)]
RETURNS = [line.replace(b"\n", b"\r\n") for line in TABLE]
MIXED = [line.replace(b"\n", b"\r\n") if number % 2 else line for number, line in enumerate(TABLE)]

REFUSE = {"records": "refusing:refuse"}
SQL = {"sql": "SELECT * FROM input"}


def texts_of_blocks(data: bytes, compression: str) -> dict[int, bytes]:
    """What each gzip member or zstd frame holds, by its compressed byte."""
    texts, rest = {}, data
    while rest:
        member: Any = zlib.decompressobj(31) if compression == "bgzip" else zstandard.ZstdDecompressor().decompressobj()
        texts[len(data) - len(rest)] = member.decompress(rest)
        rest = member.unused_data
    return texts


@pytest.mark.parametrize("compression", ["bgzip", "zstd"])
@pytest.mark.parametrize(
    ("format", "header", "lines", "processor", "bad"),
    [
        ("text", b"", EVEN, REFUSE, None),
        ("text", b"", LONG, REFUSE, None),
        ("jsonl", b"", RAGGED, REFUSE, None),
        ("csv", COLUMNS, TABLE, REFUSE, None),
        ("csv", COLUMNS, TABLE, SQL, b",more"),
        ("csv", COLUMNS.replace(b"\n", b"\r\n"), RETURNS, SQL, b",more"),
        ("csv", COLUMNS, MIXED, SQL, b",more"),
    ],
)
async def test_rejects_of_blocks_lead_back_to_their_records(
    grid: InProcessGrid,
    code: Path,
    tmp_path: Path,
    compression: str,
    format: str,
    header: bytes,
    lines: list[bytes],
    processor: dict[str, Any],
    bad: bytes | None,
) -> None:
    (code / "refusing.py").write_text("def refuse(record):\n    raise ValueError('no')\n")
    body = header + b"".join(lines)
    data = bgzip(body) if compression == "bgzip" else seekable_zstd(body)
    splits = Splits(grid.aws.s3, grid.settings.bucket, tmp_path)
    await splits("raw.gz" if compression == "bgzip" else "raw.zst", data, format=format, part_bytes=20_000)
    assert {item["type"] for item in splits.items} == {"blocks"} and len(splits.items) > 1

    tasks = await grid.run(await grid.submit(processor, splits.items))
    assert {task["state"] for task in tasks} == {"succeeded"}
    rejects = [line for task in tasks for line in await grid.lines(task["output"]["rejects"])]
    texts = texts_of_blocks(data, compression)
    starts = dict(zip(texts, accumulate(map(len, texts.values()), initial=0), strict=False))
    for source in (reject["source"] for reject in rejects):
        assert source["uri"] == splits.items[0]["uri"] and "byte" not in source
        assert source["block_byte"] < len(texts[source["block"]]), "in the block itself, not in one after it"
    begins = accumulate(map(len, lines), initial=len(header))
    expected = [begin for begin, line in zip(begins, lines, strict=False) if bad is None or bad in line]
    assert [starts[reject["source"]["block"]] + reject["source"]["block_byte"] for reject in rejects] == expected


async def test_a_torn_record_of_blocks_is_named_by_its_place(grid: InProcessGrid, tmp_path: Path) -> None:
    body = COLUMNS + b"".join(b'row %d,"two\nlines %s"\n' % (number, b"x" * 40) for number in range(2000))
    data = bgzip(body)
    splits = Splits(grid.aws.s3, grid.settings.bucket, tmp_path)
    await splits("raw.csv.gz", data, format="csv", part_bytes=7_000)

    tasks = await grid.run(await grid.submit({"command": ["true"]}, splits.items))
    error = next(task["error"] for task in tasks if task["state"] == "failed")
    assert error["type"] == "records_torn"
    place = re.search(r"the record at byte (\d+) of the block at byte (\d+) \(", error["message"])
    assert place is not None
    within, block = map(int, place.groups())
    assert re.match(rb'row \d+,"two\nlines x+"\n', gzip.decompress(data[block:])[within:])
