"""An Avro object container file: cut after the sync marker that ends each of its blocks, found by small reads."""

from io import BytesIO
from typing import Any

from services.contract.location import Location
from services.contract.task_input import AvroBlocks
from services.inputs.avro.header import HEADER, MAGIC, SYNC_BYTES
from services.inputs.chunk import Chunk, SplitError
from services.inputs.magic import HEAD_BYTES, recognise
from services.inputs.ranges import cut_ranges, first_cursor
from services.inputs.sizes import choose_part_bytes
from services.inputs.spec import AvroInput
from services.platform.reads import PinnedObject

WINDOW_BYTES = 65_536  # doubled until it holds a sync marker
WINDOW_BYTES_MAX = 8_388_608
CODECS = ("null", "deflate", "snappy", "zstandard", "bzip2", "xz")  # of the specification, "Required Codecs" and on
_HEADER_BYTES_MAX = 16_777_216


async def split(s3: Any, source: AvroInput, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    """Raises SplitError if the object is not an Avro file, or if there would be too many parts."""
    if cursor is None:
        object_ = await PinnedObject.find(s3, source.uri)
        header_end, sync = await _read_header(object_)
        part_bytes = choose_part_bytes(source, object_.size - header_end, slots)
        place = {"etag": object_.etag, "header_end": header_end, "sync": sync.hex()}
        cursor = first_cursor(header_end, object_.size, part_bytes) | place
    else:
        object_ = PinnedObject(s3, Location.parse(source.uri), cursor["etag"], cursor["bytes"])
    sync = bytes.fromhex(cursor["sync"])

    async def find(target: int, end: int) -> int | None:
        return await _find_block(object_, sync, target, end)

    ranges = await cut_ranges(cursor, find)
    location, header_end = object_.location, cursor["header_end"]
    parts = [AvroBlocks(location, header_end, start, end, object_.etag) for start, end in ranges.parts]
    return Chunk([part.to_json() for part in parts], ranges.cursor, ranges.done, share=ranges.share)


async def look(s3: Any, source: AvroInput) -> None:
    """Raises SplitError."""
    await _read_header(await PinnedObject.find(s3, source.uri))


async def _read_header(object_: PinnedObject) -> tuple[int, bytes]:
    """The end of the header, and its sync marker. Raises SplitError."""
    import fastavro

    uri, data, window = object_.location.uri, b"", WINDOW_BYTES
    while True:
        data += await object_.read(len(data), window)
        if not data.startswith(MAGIC):
            found = recognise(data[:HEAD_BYTES])
            begins = f" but like {found.name}: {found.fix}" if found else ""
            raise SplitError(f"{uri} is not an Avro object container file: it does not begin with Obj1{begins}")
        stream = BytesIO(data)
        try:
            header: Any = fastavro.schemaless_reader(stream, HEADER, None)
        except Exception as error:  # fastavro has no exception class of its own; most likely the header goes on
            if len(data) < min(object_.size, _HEADER_BYTES_MAX):
                window *= 4
                continue
            raise SplitError(f"{uri} has an Avro header that can't be read: {type(error).__name__}: {error}") from None
        codec = header["meta"].get("avro.codec", b"null").decode(errors="replace")
        if codec not in CODECS:
            raise SplitError(f"{uri} has blocks of the codec {codec!r}; write it with one of {', '.join(CODECS)}")
        return stream.tell(), header["sync"]


async def _find_block(object_: PinnedObject, sync: bytes, target: int, end: int) -> int | None:
    """The first start of a block in `target … end - 1`; also finds a marker that spans two reads."""
    position, window = target - SYNC_BYTES, WINDOW_BYTES
    while position + SYNC_BYTES < end:
        data = await object_.read(position, min(position + window, end - 1))
        if (found := data.find(sync)) >= 0:
            return position + found + SYNC_BYTES
        position += max(1, len(data) - SYNC_BYTES + 1)
        window = min(window * 2, WINDOW_BYTES_MAX)
    return None
