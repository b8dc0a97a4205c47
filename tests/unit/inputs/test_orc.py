"""Stripes of an ORC file with a tail of their own are an ORC file; a damaged tail is refused, whatever it says."""

import io
import random
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow
import pyarrow.orc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inputs.orc.protobuf import fields, integer, message
from services.inputs.orc.tail import MAGIC, OrcError, Tail, footer_bytes, make_tail, parse_tail

URI = "s3://b/in.orc"
KINDS = ("uncompressed", "zlib", "snappy", "lz4", "zstd")
DRAW = random.Random(7)
TABLE = pyarrow.table(
    {
        "n": pyarrow.array([None if n % 7 == 0 else n for n in range(9000)]),
        "s": [DRAW.choice(["a", "bb", "längere Wörter", None]) for _ in range(9000)],
        "at": [datetime(2013, 1, 1, 2, 3, 4, n) for n in range(9000)],
        "day": [date(1970, 1, 1 + n % 28) for n in range(9000)],
        "money": [Decimal(n).scaleb(-2) for n in range(9000)],
        "list": [[{"k": n, "v": [n / 2]}] for n in range(9000)],
        "bytes": [DRAW.randbytes(40) for _ in range(9000)],
    }
)


def orc(table: pyarrow.Table = TABLE, **options: Any) -> bytes:
    sink = io.BytesIO()
    pyarrow.orc.write_table(table, sink, **{"stripe_size": 65_536, **options})
    return sink.getvalue()


def read_tail(data: bytes) -> Tail:
    length = footer_bytes(URI, data[-65_536:], len(data))
    return parse_tail(URI, data[-length:], len(data))


def part_of(data: bytes, tail: Tail, first: int, count: int) -> bytes:
    """As the worker makes it."""
    stripes = tail.stripes[first : first + count]
    start = stripes[0].start
    return MAGIC + data[start : stripes[-1].end] + make_tail(tail, stripes, len(MAGIC) - start)


@pytest.mark.parametrize(
    "options",
    [{"compression": kind} for kind in KINDS]
    + [
        {"compression": "zlib", "compression_block_size": 65_536},
        {"compression": "lz4", "compression_block_size": 65_536},
        {"compression": "snappy", "bloom_filter_columns": [0, 1], "dictionary_key_size_threshold": 1.0},
        {"file_version": "0.11"},
        {"row_index_stride": 100},
        {"stripe_size": 64 << 20},
    ],
    ids=str,
)
def test_every_part_is_a_file_of_its_stripes(options: dict[str, Any]) -> None:
    data = orc(**options)
    whole, tail = pyarrow.orc.ORCFile(io.BytesIO(data)), read_tail(data)
    assert len(tail.stripes) == whole.nstripes

    for count in (1, 2, whole.nstripes):
        parts = [part_of(data, tail, first, count) for first in range(0, whole.nstripes, count)]
        files = [pyarrow.orc.ORCFile(io.BytesIO(part)) for part in parts]
        assert sum(file.nrows for file in files) == whole.nrows
        assert pyarrow.concat_tables([file.read() for file in files]).equals(whole.read())
        assert all(file.schema == whole.schema and file.writer_version == whole.writer_version for file in files)
        assert [read_tail(part).stripes[0].start for part in parts] == [len(MAGIC)] * len(parts)
    assert files[0].content_length == whole.content_length


def test_a_footer_that_is_longer_than_a_block_is_several_chunks() -> None:
    table = pyarrow.table({f"{n:0250}": [n] for n in range(300)})
    data = orc(table, compression="zlib", compression_block_size=65_536)
    tail = read_tail(data)
    assert len(tail.footer) > 65_536

    part = part_of(data, tail, 0, 1)

    assert pyarrow.orc.ORCFile(io.BytesIO(part)).read().equals(table)


def test_a_file_without_rows_has_no_stripes() -> None:
    assert read_tail(orc(TABLE.slice(0, 0))).stripes == []


GOOD = orc(TABLE.slice(0, 100), compression="zlib")
POSTSCRIPT = GOOD[-GOOD[-1] - 1 : -1]


def with_postscript(**changes: int) -> bytes:
    """The file, its postscript saying something else of footer_length, compression or block_size."""
    numbers = {"footer_length": 1, "compression": 2, "block_size": 3}
    changed = {numbers[name]: value for name, value in changes.items()}
    written = b"".join(
        integer(field.number, changed[field.number]) if field.number in changed else field.raw
        for field in fields(POSTSCRIPT)
    )
    return GOOD[: -len(POSTSCRIPT) - 1] + written + bytes([len(written)])


def with_stripe(start: int, length: int) -> bytes:
    """A file that is not compressed, whose one stripe is said to be elsewhere."""
    footer = message(3, integer(1, start) + integer(3, length))
    postscript = integer(1, len(footer)) + integer(2, 0) + message(8000, b"ORC")
    return b"ORC" + bytes(50) + footer + postscript + bytes([len(postscript)])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is not an ORC file"),
        (b"ORC", "is not an ORC file"),
        (b"a,b\n1,2\n" * 100, "is not an ORC file"),
        (GOOD[:-1], "is not an ORC file"),
        (GOOD[:-30], "is not an ORC file"),
        (GOOD[-GOOD[-1] - 1 :], "names a footer of"),  # nothing but the postscript
        (with_postscript(footer_length=1 << 40), "longer than the file"),
        (with_postscript(footer_length=7), "has a footer that can't be read"),
        (with_postscript(compression=3), "compressed by LZO: write it with zlib, zstd, snappy or lz4"),
        (with_postscript(compression=99), "compressed by kind 99"),
        (with_postscript(compression=0), "has a footer that can't be read"),
        (with_postscript(compression=2), "has a footer that can't be read"),
        (with_postscript(compression=4), "has a footer that can't be read"),
        (with_postscript(compression=5), "has a footer that can't be read"),
        (with_postscript(block_size=10), "longer than a block"),
        (with_postscript(block_size=1 << 40), "blocks of 1099511627776 bytes"),
        (with_stripe(0, 10), "a stripe is said to be at bytes 0 to 10"),
        (with_stripe(3, 51), "a stripe is said to be at bytes 3 to 54"),
        (with_stripe(1 << 60, 1 << 60), "a stripe is said to be at"),
    ],
)
def test_what_is_not_orc_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(OrcError, match=why) as refused:
        read_tail(data)
    assert URI in str(refused.value)


def test_encrypted_columns_are_refused() -> None:
    footer = message(10, b"")
    postscript = integer(1, len(footer)) + message(8000, b"ORC")
    with pytest.raises(OrcError, match="has encrypted columns"):
        read_tail(b"ORC" + footer + postscript + bytes([len(postscript)]))


@given(st.data())
def test_damage_is_refused_or_does_not_matter(data: st.DataObject) -> None:
    """A byte of the tail is another: never another error, and never a place outside of the file."""
    kind = data.draw(st.sampled_from(sorted(DAMAGED)))
    whole = bytearray(DAMAGED[kind])
    position = data.draw(st.integers(1, 600))
    whole[-position] = data.draw(st.integers(0, 255))
    try:
        tail = read_tail(bytes(whole))
    except OrcError:
        return
    assert all(len(MAGIC) <= stripe.start <= stripe.end <= len(whole) for stripe in tail.stripes)


DAMAGED = {kind: orc(TABLE.slice(0, 500), compression=kind) for kind in KINDS}


def test_a_footer_of_tiny_fields_is_refused_before_they_fill_memory() -> None:
    """A few bytes compress to millions of fields, each of which is an object in memory."""
    with pytest.raises(ValueError, match="more than 1000000 fields"):
        sum(1 for _ in fields(integer(1, 0) * 1_000_001))
