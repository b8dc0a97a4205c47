"""What is copied inside S3 and what passes through memory; the checksums of what is joined."""

import zlib
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contract.location import Location
from services.platform import multipart
from services.scheduler.merges.concatenate import Copy, Extent, Literal, Piece, Source, plan_source
from services.scheduler.merges.crc32 import combine, encode

MIN = 5 << 20
OBJECT = Location("b", "k")


@pytest.mark.parametrize(
    ("waiting", "size", "steps"),
    [
        (0, 0, []),
        (0, MIN - 1, [("Read", 0, MIN - 1)]),
        (0, MIN, [("Copy", 0, MIN)]),
        (1, MIN, [("Read", 0, MIN)]),  # the rest would be too small a part
        (1, 2 * MIN - 1, [("Read", 0, MIN - 1), ("Copy", MIN - 1, 2 * MIN - 1)]),
        (MIN, MIN, [("Copy", 0, MIN)]),
        (MIN, MIN - 1, [("Read", 0, MIN - 1)]),
    ],
)
def test_a_source_is_copied_as_far_as_s3_allows(waiting: int, size: int, steps: list[tuple[str, int, int]]) -> None:
    planned = plan_source(Source(OBJECT, 0, size, 7), waiting)
    assert [(type(step).__name__, step.source.start, step.source.end) for step in planned] == steps


SIZES = st.one_of(st.integers(1, 100), st.integers(1, 3 * MIN), st.integers(multipart.PART_BYTES_MAX, 3 << 33))


@given(st.lists(SIZES, max_size=30), st.sampled_from([0, 1, 4]))
def test_no_part_is_too_small_and_there_are_no_more_than_foreseen(sizes: list[int], between: int) -> None:
    parts, waiting = [], 0
    end = Literal(b"\n" * between)
    sources: list[Piece] = [piece for size in sizes for piece in (end, Source(OBJECT, 0, size))][1:]
    for source in sources:
        for step in plan_source(source, waiting):
            if isinstance(step, Copy):
                parts += [waiting] * (waiting > 0)
                pieces = -(-step.source.bytes // multipart.PART_BYTES_MAX)
                parts += [step.source.bytes // pieces] * pieces
                waiting = 0
            elif (waiting := waiting + step.source.bytes) >= multipart.BUFFER_BYTES:
                parts.append(waiting)
                waiting = 0
    parts += [waiting] * (waiting > 0)

    assert all(part >= MIN for part in parts[:-1])
    total = sum(source.bytes for source in sources)
    assert 0 <= total - sum(parts) <= len(parts)  # what the pieces of 5 GiB have lost by rounding down
    assert len(parts) <= Extent(len(sizes), sum(sizes), between).parts_max


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_a_checksum_is_that_of_the_joined_bytes(pieces: list[bytes]) -> None:
    crc32: int | None = 0
    for piece in pieces:
        crc32 = combine(crc32, zlib.crc32(piece), len(piece))
    joined = b"".join(pieces)
    assert crc32 == zlib.crc32(joined)
    for cut in accumulate(map(len, pieces)):
        rest = combine(zlib.crc32(joined[:cut]), zlib.crc32(joined), len(joined) - cut)
        assert rest == zlib.crc32(joined[cut:])


def test_a_checksum_needs_those_of_all_pieces_and_is_written_as_s3_does() -> None:
    many = b"\0" * 1_000_003
    assert combine(zlib.crc32(b"x"), zlib.crc32(many), len(many)) == zlib.crc32(b"x" + many)
    assert combine(None, 1, 1) is combine(1, None, 1) is None
    assert encode(zlib.crc32(b"123456789")) == "y/Q5Jg=="
