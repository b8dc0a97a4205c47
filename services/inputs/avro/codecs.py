"""The codecs of Avro's blocks, with a limit to what a block may become: fastavro's own have none.

Ours have names of their own, which a copy of the file's header uses: what a user's function reads by fastavro in the
same process stays as it is. https://avro.apache.org/docs/1.12.0/specification/#required-codecs
"""

import bz2
import lzma
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

from services.inputs.record_size import RECORD_BYTES_MAX
from services.inputs.varint import read_varint

BLOCK_BYTES_MAX = 2 * RECORD_BYTES_MAX  # a record, and those that its writer had not written yet
_PREFIX = "piecework-"


class BlockTooLong(ValueError):
    """A block holds more than BLOCK_BYTES_MAX."""

    def __init__(self) -> None:
        super().__init__(f"a block is longer than {BLOCK_BYTES_MAX} bytes: write it with shorter ones")


def own_name(codec: str) -> str:
    """Our name for a codec; registers how its blocks are read. Unchanged for what is not compressed, or unknown."""
    import fastavro._read
    import fastavro._read_py

    if codec not in _READERS:
        return codec
    for module in (fastavro._read, fastavro._read_py):
        module.BLOCK_READERS[_PREFIX + codec] = _block_reader(_READERS[codec])
    return _PREFIX + codec


def _block_reader(decompress: Callable[[bytes, int], bytes]) -> Callable[[Any], BytesIO]:
    import fastavro

    def read(source: Any) -> BytesIO:
        """From a file, or from a decoder of one."""
        file = getattr(source, "fo", source)
        length: Any = fastavro.schemaless_reader(file, "long", None)
        data = file.read(length)
        text = decompress(data, BLOCK_BYTES_MAX + 1)
        if len(text) > BLOCK_BYTES_MAX:
            raise BlockTooLong
        return BytesIO(text)

    return read


def _inflate(data: bytes, bytes_max: int) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, bytes_max)


def _bunzip(data: bytes, bytes_max: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, bytes_max)


def _unxz(data: bytes, bytes_max: int) -> bytes:
    return lzma.LZMADecompressor().decompress(data, bytes_max)


def _unzstd(data: bytes, bytes_max: int) -> bytes:
    import zstandard

    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
        text: bytes = reader.read(bytes_max)
    return text


def _unsnap(data: bytes, bytes_max: int) -> bytes:
    """Behind the data is a CRC, which fastavro passes over, too; before it, the length of the text."""
    import cramjam

    if read_varint(data, 0)[0] >= bytes_max:
        raise BlockTooLong
    return bytes(cramjam.snappy.decompress_raw(data[:-4]))


_READERS: dict[str, Callable[[bytes, int], bytes]] = {
    "deflate": _inflate,
    "bzip2": _bunzip,
    "xz": _unxz,
    "zstandard": _unzstd,
    "snappy": _unsnap,
}
