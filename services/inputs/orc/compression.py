"""ORC's compression of footers: chunks, each after a header that tells its length and whether it is compressed."""

import zlib
from collections.abc import Iterator

from services.inputs.varint import read_varint

_HEADER_BYTES = 3
_BYTES_MAX = 67_108_864
_KINDS = ("none", "zlib", "snappy", "LZO", "lz4", "zstd", "Brotli")  # by number, of the enum CompressionKind


def decompress(data: bytes, kind: int, block_bytes: int) -> bytes:
    """Data compressed by `kind`, a number, in blocks of at most `block_bytes`. Raises ValueError."""
    name = _KINDS[kind] if kind < len(_KINDS) else f"kind {kind}"
    if name == "none":
        return data
    text = bytearray()
    for chunk, is_original in _chunks(data):
        text += chunk if is_original else _decompress(chunk, name, block_bytes)
        if len(text) > _BYTES_MAX:
            raise ValueError(f"it is longer than {_BYTES_MAX} bytes")
    return bytes(text)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bool]]:
    position = 0
    while position < len(data):
        header = int.from_bytes(data[position : position + _HEADER_BYTES], "little")
        begin, end = position + _HEADER_BYTES, position + _HEADER_BYTES + (header >> 1)
        if end > len(data):
            raise ValueError("a compressed chunk is cut short")
        yield data[begin:end], bool(header & 1)
        position = end


def _decompress(chunk: bytes, kind: str, block_bytes: int) -> bytes:
    match kind:
        case "zlib":
            return _inflate(chunk, block_bytes)
        case "snappy":
            return _by_pyarrow("snappy", chunk, _snappy_bytes(chunk), block_bytes)
        case "lz4":
            return _by_pyarrow("lz4_raw", chunk, _lz4_bytes(chunk), block_bytes)
        case "zstd":
            return _unzstd(chunk, block_bytes)
    raise ValueError(f"it is compressed by {kind}: write it with zlib, zstd, snappy or lz4")


def _inflate(chunk: bytes, block_bytes: int) -> bytes:
    try:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        text = inflater.decompress(chunk, block_bytes)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not inflater.eof:
        raise ValueError("a compressed chunk does not end, or is longer than a block")
    return text


def _unzstd(chunk: bytes, block_bytes: int) -> bytes:
    import zstandard

    try:
        return zstandard.ZstdDecompressor().decompress(chunk, max_output_size=block_bytes)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None


def _by_pyarrow(codec: str, chunk: bytes, size: int, block_bytes: int) -> bytes:
    """LZ4 and snappy blocks need the size of the text in advance."""
    import pyarrow

    if size > block_bytes:
        raise ValueError(f"a compressed chunk has {size} bytes, more than a block of {block_bytes}")
    try:
        text: bytes = pyarrow.decompress(chunk, size, codec, asbytes=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(str(error)) from None
    return text


def _snappy_bytes(chunk: bytes) -> int:
    """A varint at the start: https://github.com/google/snappy/blob/main/format_description.txt."""
    return read_varint(chunk, 0)[0]


def _lz4_bytes(chunk: bytes) -> int:
    """The size is the sum of all literals and matches: https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md."""
    position = size = 0
    while position < len(chunk):
        token = chunk[position]
        literals, position = _lz4_length(chunk, position + 1, token >> 4)
        size, position = size + literals, position + literals
        if position >= len(chunk):  # the last sequence has no match
            return size
        matched, position = _lz4_length(chunk, position + 2, token & 15)
        size += matched + 4
    return size


def _lz4_length(chunk: bytes, position: int, length: int) -> tuple[int, int]:
    """A length of 15 goes on in the bytes that follow, up to one that is not 255; and where it ends."""
    more = length == 15
    while more and position < len(chunk):
        length += chunk[position]
        more = chunk[position] == 255
        position += 1
    return length, position
