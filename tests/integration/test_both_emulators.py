"""What the services rely on in S3, against both emulators, and that no operation of AWS is left to one of them."""

import ast
import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow
import pyarrow.parquet
import pytest
from botocore.exceptions import ClientError

from deploy.local.emulator import Emulator
from services.contract.location import Location
from services.inputs import listing
from services.platform import multipart
from services.platform.aws import Aws
from services.platform.multipart import MultipartWriter, abort_uploads, delete_all
from services.platform.reads import PinnedObject
from services.platform.settings import Settings
from tests.emulators import operations_of_services
from tests.integration.inputs.conftest import split_all
from tests.integration.scheduler.conftest import Bucket

TESTS = Path(__file__).parents[1]


@pytest.fixture
def settings(emulator: Emulator) -> Settings:
    return Settings(aws_endpoint_url=emulator.url, bucket=f"test-{uuid4().hex}")


@pytest.fixture
def bucket(aws: Aws, settings: Settings) -> Bucket:
    return Bucket(aws.s3, settings.bucket)


def marked_operations() -> Iterator[str]:
    """The arguments of every mark `both_emulators`."""
    for path in TESTS.rglob("test_*.py"):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)) if "both_emulators" in source else ():
            match node:
                case ast.Call(func=ast.Attribute(attr="both_emulators"), args=arguments):
                    yield from (argument.value for argument in arguments if isinstance(argument, ast.Constant))


def test_every_operation_that_the_services_call_runs_against_both_emulators() -> None:
    called, marked = operations_of_services(), set(marked_operations())
    assert len(called) > 20
    assert {operation: place for operation, place in called.items() if operation not in marked} == {}
    assert marked - called.keys() == set(), "no service calls these any more"


@pytest.mark.both_emulators("GetObject", "HeadObject")
async def test_a_pinned_object_is_read_in_ranges_until_it_changes(aws: Aws, bucket: Bucket) -> None:
    pinned = await PinnedObject.find(aws.s3, await bucket.put("digits", b"0123456789"))
    assert [await pinned.read(*span) for span in ((0, 10), (3, 5), (8, 99), (10, 12))] == [
        b"0123456789",
        b"34",
        b"89",
        b"",
    ]

    await bucket.put("digits", b"9876543210")

    with pytest.raises(ClientError, match="PreconditionFailed"):
        await pinned.read(0, 10)


@pytest.mark.both_emulators("HeadObject")
async def test_what_is_not_there_is_told_as_s3_tells_it(aws: Aws, bucket: Bucket) -> None:
    for name, key in ((bucket.name, "nothing"), (f"{bucket.name}-gone", "nothing")):
        with pytest.raises(ClientError, match="404"):
            await PinnedObject.find(aws.s3, Location(name, key).uri)


@pytest.mark.both_emulators("ListObjectsV2")
async def test_a_listing_goes_on_after_any_key_in_the_order_of_bytes(
    aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["in/", "in/%20", "in/A b", "in/a+b", "in/a/b", "in/ä", "in/\u20ac", "in/\U0001f600"]
    for key in reversed(keys):
        await bucket.put(key, b"x")
    await bucket.put("inner", b"x")
    plain = aws.s3.list_objects_v2

    async def short_pages(**arguments: Any) -> Any:
        return await plain(**{"MaxKeys": 2} | arguments)

    monkeypatch.setattr(aws.s3, "list_objects_v2", short_pages)
    monkeypatch.setattr(listing, "PAGES_PER_SPAN", 1)

    found, left = await listing.list_some(aws.s3, Location(bucket.name, "in/"), [listing.WHOLE])
    while left:
        more, left = await listing.list_some(aws.s3, Location(bucket.name, "in/"), left)
        found += more

    assert [entry.key for entry in found] == keys
    assert {entry.size for entry in found} == {1} and all(entry.etag for entry in found)


@pytest.mark.both_emulators("GetObject", "HeadObject")
async def test_inputs_of_every_kind_are_split(aws: Aws, bucket: Bucket) -> None:
    lines = b"".join(b"%d\n" % number for number in range(1000))
    columns = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"n": list(range(100))}), columns, row_group_size=25)
    text, table = await bucket.put("text", lines), await bucket.put("table.parquet", columns.getvalue().to_pybytes())
    manifest = await bucket.put("manifest.csv", f"bucket,key\n{bucket.name},text\n{bucket.name},none\n".encode())

    assert len(await split_all(aws, type="lines", uri=text, part_bytes=1000)) == 4
    assert len(await split_all(aws, type="parquet", uri=table, part_bytes=1)) == 4
    assert len(await split_all(aws, type="manifest", uri=manifest)) == 2


@pytest.fixture
async def joined(bucket: Bucket) -> AsyncIterator[Location]:
    """A place for an object that is written in parts."""
    yield Location(bucket.name, "joined")
    assert await bucket.unfinished_uploads() == []


@pytest.mark.both_emulators("AbortMultipartUpload", "CreateMultipartUpload")
async def test_an_object_whose_writer_fails_is_not_there_and_costs_nothing(
    aws: Aws, bucket: Bucket, joined: Location
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with MultipartWriter(aws.s3, joined) as writer:
            await writer.write(bytes(multipart.BUFFER_BYTES))
            raise ZeroDivisionError

    with pytest.raises(ClientError, match="NoSuchKey"):
        await bucket.get(joined.uri)


@pytest.mark.both_emulators("AbortMultipartUpload", "ListMultipartUploads")
async def test_what_a_writer_that_died_has_left_is_aborted_and_nothing_of_others(
    aws: Aws, bucket: Bucket, joined: Location
) -> None:
    keys = [joined.key, joined.key, f"{joined.key}-too"]
    *_, other = [await aws.s3.create_multipart_upload(Bucket=bucket.name, Key=key) for key in keys]

    await abort_uploads(aws.s3, joined)

    assert await bucket.unfinished_uploads() == [f"{joined.key}-too"]
    await aws.s3.abort_multipart_upload(Bucket=bucket.name, Key=other["Key"], UploadId=other["UploadId"])


@pytest.mark.both_emulators("DeleteObjects", "ListObjectsV2")
async def test_all_under_a_prefix_is_deleted_and_nothing_else(aws: Aws, bucket: Bucket) -> None:
    gone = [f"sections/{number:05} <&>" for number in range(12)]
    await asyncio.gather(*(bucket.put(key, b"x") for key in [*gone, "sections", "sectionsandmore"]))

    await delete_all(aws.s3, Location(bucket.name, "sections/"))
    await delete_all(aws.s3, Location(bucket.name, "sections/"))

    answer = await aws.s3.list_objects_v2(Bucket=bucket.name)
    assert [entry["Key"] for entry in answer["Contents"]] == ["sections", "sectionsandmore"]
