"""gzip and zstd streams of any number of members, decompressed piece by piece: memory stays flat."""

import zlib
from collections.abc import Callable, Iterator
from typing import Any

_PIECE_BYTES = 4 << 20
_ZSTD_SLICE_BYTES = 1 << 10  # zstd can't be told how much to give at once, and makes 128 KiB of as little as 4 bytes
_ZSTD_PIECE_BYTES = 256 << 10


class DamagedStream(ValueError):
    """The data is not valid for this compression, or is truncated; the message says where."""


class Decompressor:
    """`feed` it all bytes in order, then `finish`. `position` is the number of bytes read.

    `member_begins` is called for each member, with its first byte and the first byte of its text in the whole text.
    """

    def __init__(self, compression: str, member_begins: Callable[[int, int], None] | None = None) -> None:
        self.position = 0
        self._text_bytes = 0
        self._member_begins = member_begins
        self._compression = compression
        self._member: Any = None
        self._padding = False
        self._errors: tuple[type[Exception], ...] = (zlib.error,)
        if compression == "zstd":
            import zstandard  # loaded only when needed

            self._zstandard = zstandard
            self._errors = (zstandard.ZstdError,)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decompressed bytes, in pieces of a few MiB. Raises DamagedStream."""
        try:
            yield from self._gzip(data) if self._compression == "gzip" else self._zstd(data)
        except self._errors as error:
            raise DamagedStream(
                f"the {self._compression} stream is damaged near its compressed byte {self.position}: {error}"
            ) from None

    def finish(self) -> None:
        """Raises DamagedStream if the last member is not complete."""
        if self._member is not None:
            raise DamagedStream(
                f"the {self._compression} stream is truncated: it breaks off at its compressed byte {self.position}"
            )

    def _begin(self, member: Any) -> None:
        self._member = member
        if self._member_begins is not None:
            self._member_begins(self.position, self._text_bytes)

    def _gzip(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member is None:
                self._padding = self._padding or data[0] == 0
                if self._padding:  # zeros after the last member, as tapes and tar leave them
                    if data.strip(b"\0"):
                        raise zlib.error("no gzip member where one must begin")
                    self.position += len(data)
                    return
                self._begin(zlib.decompressobj(wbits=31))
            member = self._member
            piece = member.decompress(data, _PIECE_BYTES)
            rest = member.unused_data if member.eof else member.unconsumed_tail
            self.position += len(data) - len(rest)
            self._text_bytes += len(piece)
            data = rest
            if member.eof:
                self._member = None
            if piece:
                yield piece
            elif not rest:
                return

    def _zstd(self, data: bytes) -> Iterator[bytes]:
        made = bytearray()
        for start in range(0, len(data), _ZSTD_SLICE_BYTES):
            rest = data[start : start + _ZSTD_SLICE_BYTES]
            while rest:
                if self._member is None:
                    self._begin(self._zstandard.ZstdDecompressor().decompressobj())
                piece = self._member.decompress(rest)
                left = self._member.unused_data if self._member.eof else b""
                self.position += len(rest) - len(left)
                self._text_bytes += len(piece)
                rest = left
                if self._member.eof:
                    self._member = None
                made += piece
            if len(made) >= _ZSTD_PIECE_BYTES:
                yield bytes(made)
                made.clear()
        if made:
            yield bytes(made)
