"""Concatenation: whatever the sizes, the object is its sources end to end, its checksum that of its bytes."""

import random
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from services.contract.location import Location
from services.platform import multipart
from services.platform.multipart import TooManyParts
from services.platform.reads import ObjectLost
from services.scheduler.merges import concatenate as concatenate_module
from services.scheduler.merges.concatenate import Extent, Literal, Piece, Source, TooLarge, concatenate
from tests.integration.scheduler.conftest import Bucket

MIB = 1 << 20


class Parts:
    """The sizes of the parts that S3 gets, by key and number."""

    def __init__(self, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uploaded: dict[tuple[str, int], int] = {}
        self.copied: dict[tuple[str, int], int] = {}
        upload, copy = s3.upload_part, s3.upload_part_copy

        async def upload_part(**arguments: Any) -> Any:
            self.uploaded[arguments["Key"], arguments["PartNumber"]] = len(arguments["Body"])
            return await upload(**arguments)

        async def upload_part_copy(**arguments: Any) -> Any:
            first, _, last = arguments["CopySourceRange"].removeprefix("bytes=").partition("-")
            self.copied[arguments["Key"], arguments["PartNumber"]] = int(last) - int(first) + 1
            return await copy(**arguments)

        monkeypatch.setattr(s3, "upload_part", upload_part)
        monkeypatch.setattr(s3, "upload_part_copy", upload_part_copy)

    def sizes(self, key: str = "joined") -> list[int]:
        parts = {number: size for (of, number), size in (self.uploaded | self.copied).items() if of == key}
        assert sorted(parts) == list(range(1, len(parts) + 1))
        return [parts[number] for number in sorted(parts)]


async def put(bucket: Bucket, pieces: Sequence[bytes], start: int = 0) -> list[Source]:
    """Objects with these bytes, each to be taken from `start` on."""
    locations = [Location.parse(await bucket.put(f"piece/{n:04}", piece)) for n, piece in enumerate(pieces)]
    return [
        Source(location, start, len(piece), zlib.crc32(piece[start:]))
        for location, piece in zip(locations, pieces, strict=True)
    ]


async def join(bucket: Bucket, sources: Sequence[Piece]) -> bytes:
    """What `concatenate` makes of the sources; it leaves nothing else behind."""

    async def each() -> AsyncIterator[Piece]:
        for source in sources:
            yield source

    target = Location(bucket.name, "joined")
    extent = Extent(len(sources), sum(source.bytes for source in sources))
    try:
        made = await concatenate(bucket.s3, target, each(), extent, Location(bucket.name, "sections/"))
    finally:
        listing = await bucket.s3.list_objects_v2(Bucket=bucket.name, Prefix="sections/")
        assert (listing["KeyCount"], await bucket.unfinished_uploads()) == (0, [])
    joined = await bucket.get(target.uri)
    assert (made.bytes, made.crc32) == (len(joined), zlib.crc32(joined))
    return joined


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 and its parts a million times smaller."""
    monkeypatch.setattr(multipart, "PART_BYTES_MIN", 10)
    monkeypatch.setattr(multipart, "PART_BYTES_MAX", 25)
    monkeypatch.setattr(multipart, "BUFFER_BYTES", 16)


@pytest.mark.both_emulators(
    "CompleteMultipartUpload",
    "CreateMultipartUpload",
    "GetObject",
    "ListMultipartUploads",
    "UploadPart",
    "UploadPartCopy",
)
async def test_large_objects_are_copied_inside_s3_and_small_neighbours_are_coalesced(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(1)
    sizes = [6 * MIB, 100, 5 * MIB, 3 * MIB, 3 * MIB, 0, 3 * MIB, 7 * MIB, 1]
    pieces = [draw.randbytes(size) for size in sizes]
    parts = Parts(bucket.s3, monkeypatch)

    assert await join(bucket, await put(bucket, pieces)) == b"".join(pieces)

    assert all(size >= 5 * MIB for size in parts.sizes()[:-1])
    assert sum(parts.copied.values()) >= 6 * MIB


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_the_sizes_no_byte_is_lost_and_no_part_is_too_small(
    bucket: Bucket, small: None, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    draw = random.Random(seed)
    sizes = [draw.choice([0, 1, 3, 9, 10, 11, 15, 19, 20, 21, 25, 26, 60]) for _ in range(12)]
    pieces = [draw.randbytes(size) for size in sizes]
    parts = Parts(bucket.s3, monkeypatch)

    assert await join(bucket, await put(bucket, pieces)) == b"".join(pieces)

    assert all(size >= 10 for size in parts.sizes()[:-1]), sizes
    assert all(size <= 25 for size in parts.copied.values()), sizes


@pytest.mark.parametrize("seed", range(4))
async def test_a_few_bytes_may_stand_between_objects_of_any_size(
    bucket: Bucket, small: None, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    draw = random.Random(seed)
    pieces = [draw.randbytes(draw.choice([1, 9, 10, 11, 20, 21, 25, 60])) for _ in range(12)]
    parts = Parts(bucket.s3, monkeypatch)
    sources = await put(bucket, pieces)

    joined = await join(bucket, [piece for source in sources for piece in (Literal(b"\r\n"), source)])

    assert joined == b"".join(b"\r\n" + piece for piece in pieces)
    assert all(size >= 10 for size in parts.sizes()[:-1])
    assert parts.copied


@pytest.mark.parametrize("seed", range(4))
async def test_what_needs_more_parts_than_s3_allows_is_joined_by_sections(
    bucket: Bucket, small: None, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(multipart, "PART_BYTES_MAX", 100)
    monkeypatch.setattr(multipart, "PARTS_MAX", 8)
    monkeypatch.setattr(concatenate_module, "SECTION_PARTS", 4)
    draw = random.Random(seed)
    pieces = [draw.randbytes(draw.choice([1, 9, 10, 11, 25, 26])) for _ in range(24)]
    parts = Parts(bucket.s3, monkeypatch)
    await bucket.put("sections/00077", b"of a merge that has died")

    assert await join(bucket, await put(bucket, pieces)) == b"".join(pieces)

    sections = {key for key, _ in parts.uploaded | parts.copied} - {"joined"}
    assert len(sections) >= 3
    for key in ("joined", *sections):
        assert len(parts.sizes(key)) <= 8
        assert all(size >= 10 for size in parts.sizes(key)[:-1])


async def test_what_no_object_can_hold_is_refused(bucket: Bucket, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = await put(bucket, [b"x" * 10] * 9)
    monkeypatch.setattr(multipart, "PARTS_MAX", 2)
    monkeypatch.setattr(concatenate_module, "SECTION_PARTS", 1)
    with pytest.raises(TooManyParts, match="more than 2 parts"):
        await join(bucket, sources)
    monkeypatch.setattr(multipart, "OBJECT_BYTES_MAX", 89)
    with pytest.raises(TooLarge, match="would have 90 bytes"):
        await join(bucket, sources)


async def test_small_objects_are_read_many_at_once_but_joined_in_order(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concatenate_module, "READS_AT_ONCE", 5)
    pieces = [b"%d," % number for number in range(40)]
    sources = await put(bucket, pieces)
    get, reading, most = bucket.s3.get_object, 0, 0

    async def get_object(**arguments: Any) -> Any:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        try:
            return await get(**arguments)
        finally:
            reading -= 1

    with monkeypatch.context() as counting:
        counting.setattr(bucket.s3, "get_object", get_object)
        assert await join(bucket, sources) == b"".join(pieces)
        assert most == 5
        counting.setattr(concatenate_module, "READ_AHEAD_BYTES", 6)
        most = 0
        assert await join(bucket, sources) == b"".join(pieces)
    assert most <= 3


@pytest.mark.both_emulators("PutObject")
async def test_nothing_joined_is_an_empty_object(bucket: Bucket) -> None:
    assert await join(bucket, []) == await join(bucket, await put(bucket, [b"", b""])) == b""


@pytest.mark.both_emulators()
async def test_only_the_named_bytes_of_each_object_are_taken(bucket: Bucket) -> None:
    assert await join(bucket, await put(bucket, [b"h,1", b"h,22", b"h,"], start=2)) == b"122"


@pytest.mark.both_emulators()
@pytest.mark.parametrize("now", [b"as lonG", b"as lon"])
async def test_an_object_that_holds_other_bytes_than_were_written_is_refused(bucket: Bucket, now: bytes) -> None:
    sources = await put(bucket, [b"x", b"as long"])
    await bucket.put("piece/0001", now)
    with pytest.raises(ObjectLost, match="piece/0001 does not hold the bytes 0-6 that were written to it"):
        await join(bucket, sources)


@pytest.mark.parametrize("now", [None, bytes(2 * MIB)], ids=["gone", "shorter"])
async def test_an_object_that_cannot_be_copied_as_it_was_written_is_refused(bucket: Bucket, now: bytes | None) -> None:
    sources = await put(bucket, [bytes(6 * MIB), bytes(7 * MIB)])
    await bucket.delete(sources[1].location.uri)
    if now is not None:
        await bucket.put(sources[1].location.key, now)
    with pytest.raises(ObjectLost) as refused:
        await join(bucket, sources)
    assert refused.value.location == sources[1].location
    assert await bucket.unfinished_uploads() == []


async def test_an_object_that_was_overwritten_is_not_copied(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 itself compares the ETag; the emulators do not."""
    copy = bucket.s3.upload_part_copy

    async def copy_if_match(*, CopySourceIfMatch: str, **arguments: Any) -> Any:
        if (await bucket.s3.head_object(**arguments["CopySource"]))["ETag"] != CopySourceIfMatch:
            raise ClientError({"Error": {"Code": "PreconditionFailed"}}, "UploadPartCopy")
        return await copy(**arguments)

    monkeypatch.setattr(bucket.s3, "upload_part_copy", copy_if_match)
    body = bytes(6 * MIB)
    source = replace((await put(bucket, [body]))[0], etag=await bucket.etag("piece/0000"))
    assert await join(bucket, [source]) == body

    await bucket.put("piece/0000", b"1" + body[1:])
    with pytest.raises(ObjectLost):
        await join(bucket, [source])
