"""Streams of gzip, zstd, bzip2 and xz, of any number of members, decompressed piece by piece: memory stays flat.

Zeros and blanks behind a member are passed over, as tapes, tar and `echo >>` leave them. Anything else that is not
another member is an error, and so is a member that breaks off: what can't be read is never left out.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any

BEGINS: dict[str, tuple[bytes, ...]] = {
    "gzip": (b"\x1f\x8b\x08",),
    "zstd": (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + number]) + b"\x2a\x4d\x18" for number in range(16))),  # or skippable
    "bzip2": tuple(b"BZh%d" % level + block for level in range(1, 10) for block in (b"1AY&SY", b"\x17rE8P\x90")),
    "xz": (b"\xfd7zXZ\0",),
}
_PIECE_BYTES = 4 << 20
_ZSTD_SLICE_BYTES = 1 << 10  # zstd can't be told how much to give at once, and makes 128 KiB of as little as 4 bytes
_ZSTD_PIECE_BYTES = 256 << 10
_ZSTD_WINDOW_BYTES = 1 << 31  # of `zstd --long=31`, the most there is; data that is shorter takes less memory
_BLANKS = b"\0 \t\r\n\x1a"

Buffer = bytes | memoryview


class DamagedStream(ValueError):
    """The data is not valid for this compression, or is truncated; the message says where."""


class Decompressor:
    """`feed` it all bytes in order, then `finish`. `position` is the next compressed byte; the first one is `start`.

    `member_begins` is called for each member, with its first byte and the first byte of its text in the whole text.
    """

    def __init__(
        self, compression: str, member_begins: Callable[[int, int], None] | None = None, *, start: int = 0
    ) -> None:
        self.position = start
        self._text_bytes = 0
        self._member_begins = member_begins
        self._compression = compression
        self._make, self._errors = _codec(compression)
        self._member: Any = None
        self._follows = False  # whether a member has ended
        self._held = b""  # too little to tell whether a member begins with it

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decompressed bytes, in pieces of a few MiB. Raises DamagedStream."""
        rest: Buffer = self._held + data
        self._held = b""
        try:
            while rest or (self._member and self._member.pending):
                if self._member is None:
                    rest = self._begin(memoryview(rest))
                    continue
                size = len(memoryview(rest))
                piece, rest = self._member.decompress(rest)
                self.position += size - len(memoryview(rest))
                self._text_bytes += len(piece)
                if self._member.eof:
                    self._member, self._follows = None, True
                if piece:
                    yield piece
        except self._errors as error:
            raise DamagedStream(self._explain(error)) from None

    def finish(self) -> None:
        """Raises DamagedStream if the last member is not complete."""
        if self._member is not None or self._held:
            at = self.position + len(self._held)
            raise DamagedStream(
                f"the {self._compression} stream is truncated: it breaks off at its compressed byte {at}"
            )

    def _begin(self, data: memoryview) -> memoryview:
        """Begin the member with which the data begins; returns the data from there on. Raises DamagedStream."""
        if self._follows and data[0] in _BLANKS:
            kept = data.tobytes().lstrip(_BLANKS)
            self.position += len(data) - len(kept)
            data = memoryview(kept)
        head, begins = data[:10].tobytes(), BEGINS[self._compression]
        if head.startswith(begins):
            self._member = self._make()
            if self._member_begins is not None:
                self._member_begins(self.position, self._text_bytes)
            return data
        if any(begin.startswith(head) for begin in begins):
            self._held = head
            return data[:0]
        if self._follows:
            raise DamagedStream(
                f"something that is not {self._compression} follows the {self._compression} stream at its compressed "
                f"byte {self.position}: it begins with the bytes {head.hex(' ')}"
            )
        other = next((name for name, begins in BEGINS.items() if head.startswith(begins)), None)
        what = f"it begins like {other}" if other else f"it begins with the bytes {head.hex(' ')}"
        raise DamagedStream(f"this is not {self._compression}: {what}; is the name wrong, or the option compression?")

    def _explain(self, error: Exception) -> str:
        stream = f"the {self._compression} stream"
        if "Dictionary mismatch" in str(error):  # zstd's words
            return f"{stream} needs a dictionary, which can't be given: compress it without one"
        return f"{stream} is damaged near its compressed byte {self.position}: {error}"


class _Gzip:
    pending = False  # what waits in zlib comes with the bytes that follow: the member's trailer, at least

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    def decompress(self, data: Buffer) -> tuple[bytes, Buffer]:
        """The next piece, and the rest of the data."""
        piece = self._stream.decompress(data, _PIECE_BYTES)
        return piece, self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail


class _Blocks:
    """bzip2 or xz, whose decompressors keep what they have not used yet."""

    def __init__(self, stream: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._stream = stream

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def pending(self) -> bool:
        return not self._stream.eof and not self._stream.needs_input

    def decompress(self, data: Buffer) -> tuple[bytes, Buffer]:
        piece = self._stream.decompress(data, _PIECE_BYTES)
        return piece, self._stream.unused_data if self._stream.eof else b""


class _Zstd:
    pending = False

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof)

    def decompress(self, data: Buffer) -> tuple[bytes, Buffer]:
        left, made = memoryview(data), bytearray()
        while left and not self._stream.eof and len(made) < _ZSTD_PIECE_BYTES:
            made += self._stream.decompress(left[:_ZSTD_SLICE_BYTES])
            left = left[min(len(left), _ZSTD_SLICE_BYTES) - len(self._stream.unused_data) :]
        return bytes(made), left


def _codec(compression: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """What begins a member, and the exceptions for damaged data."""
    match compression:
        case "gzip":
            return _Gzip, (zlib.error,)
        case "bzip2":
            return lambda: _Blocks(bz2.BZ2Decompressor()), (OSError,)
        case "xz":
            return lambda: _Blocks(lzma.LZMADecompressor(lzma.FORMAT_XZ)), (lzma.LZMAError,)
    import zstandard  # loaded only when needed

    frames = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    return lambda: _Zstd(frames.decompressobj()), (zstandard.ZstdError,)
