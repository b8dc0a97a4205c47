"""Parquet footers, read from S3 with one or two ranged reads."""

import asyncio
from typing import Any

from botocore.exceptions import ClientError

from services.contract.location import Location

_MAGIC = b"PAR1"
_TAIL_BYTES = 65_536  # most footers fit into the first read
_FOOTER_BYTES_MAX = 268_435_456


class ParquetError(ValueError):
    """The object is no Parquet file that can be read; the message says why."""


async def read_footer(s3: Any, location: Location) -> tuple[Any, str]:
    """The object's pyarrow.parquet.FileMetaData, and its ETag. Raises ParquetError and botocore's ClientError."""
    try:
        tail, etag, size = await _read(s3, location, f"bytes=-{_TAIL_BYTES}")
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidRange":
            raise
        tail, etag, size = b"", "", 0  # S3's answer for an empty object
    if len(tail) < 12 or tail[-4:] != _MAGIC:
        raise ParquetError(f"{location.uri} is not a Parquet file: it does not end with {_MAGIC.decode()}")
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > size - len(_MAGIC):  # which begins the file, too
        raise ParquetError(
            f"{location.uri} can't be read as a Parquet file: it names a footer of {length} bytes, longer than the file"
        )
    if length > _FOOTER_BYTES_MAX:
        raise ParquetError(f"{location.uri} names a footer of {length} bytes; at most {_FOOTER_BYTES_MAX} are read")
    if length > len(tail):
        tail, etag, _ = await _read(s3, location, f"bytes=-{length}", etag)
    return await asyncio.to_thread(_parse, location, tail[-length:]), etag


async def _read(s3: Any, location: Location, range_: str, etag: str | None = None) -> tuple[bytes, str, int]:
    """Bytes of the object, its ETag and size; with `etag`, only of that version of the object."""
    condition = {"IfMatch": etag} if etag else {}
    answer = await s3.get_object(Bucket=location.bucket, Key=location.key, Range=range_, **condition)
    async with answer["Body"] as body:
        return await body.read(), answer["ETag"], int(answer["ContentRange"].rpartition("/")[2])


def _parse(location: Location, footer: bytes) -> Any:
    import pyarrow  # large: loaded by those who need it, when they need it
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_metadata(pyarrow.BufferReader(_MAGIC + footer))
    except (pyarrow.ArrowException, OSError) as error:
        raise ParquetError(f"{location.uri} has a footer that can't be read: {error}") from error
