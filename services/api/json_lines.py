"""Answers of JSON lines (https://github.com/ndjson/ndjson-spec), sent as they come and no faster than they are read."""

import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import orjson
from fastapi import Request
from fastapi.responses import StreamingResponse

MEDIA_TYPE = "application/x-ndjson"
PIECE_BYTES = 65_536  # that are sent at once: what a slow reader has not taken is no more than two of them
_GZIP = 31  # zlib's window of 32 KiB, in gzip's format: https://docs.python.org/3/library/zlib.html#zlib.compressobj


def wants_lines(request: Request) -> bool:
    return MEDIA_TYPE in request.headers.get("accept", "")


def answer_lines(request: Request, pieces: AsyncIterator[bytes]) -> StreamingResponse:
    """Compressed if the reader accepts that."""
    headers = {"Vary": "Accept, Accept-Encoding", "X-Accel-Buffering": "no"}
    if _accepts_gzip(request.headers.get("accept-encoding", "")):
        headers["Content-Encoding"] = "gzip"
        pieces = _compressed(pieces)
    return StreamingResponse(pieces, headers=headers, media_type=MEDIA_TYPE)


def pieces_of(values: Iterable[Any]) -> Iterator[bytes]:
    """Their lines, some together."""
    piece = bytearray()
    for value in values:
        piece += orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def _accepts_gzip(accepted: str) -> bool:
    """RFC 9110, section 12.5.3; but not whatever the reader leaves open."""
    for coding in accepted.lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() == "gzip":
            return weight.strip().replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


async def _compressed(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Each piece can be read when it has come."""
    packer = zlib.compressobj(level=1, wbits=_GZIP)
    async for piece in pieces:
        yield packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)
    yield packer.flush()
