"""Streams that become far more than they are: only a little of that is in memory at a time."""

import gzip

import pytest

from services.platform.decompress import Decompressor

MEBIBYTE = 1 << 20


def zstd_of_equal_bytes(blocks: int) -> bytes:
    """A frame of blocks that say "128 KiB of x" in four bytes each."""
    headers = ((131_072 << 3 | 1 << 1 | (number == blocks - 1)).to_bytes(3, "little") for number in range(blocks))
    return b"\x28\xb5\x2f\xfd\x00\x38" + b"".join(header + b"x" for header in headers)


@pytest.mark.parametrize(
    ("compression", "stream"),
    [("gzip", gzip.compress(b"x" * (64 * MEBIBYTE), 1)), ("zstd", zstd_of_equal_bytes(512))],
)
def test_a_bomb_is_given_in_pieces(compression: str, stream: bytes) -> None:
    decompressor = Decompressor(compression)

    sizes = [len(piece) for piece in decompressor.feed(stream)]

    assert sum(sizes) == 64 * MEBIBYTE
    assert max(sizes) <= 48 * MEBIBYTE
    assert decompressor.position == len(stream)
    decompressor.finish()
