"""Requests to the grid's own bucket name the account that it must belong to; those to others, and links, do not."""

import io
from typing import Any

import pytest

from services.contract.location import Location
from services.platform.aws import connect_aws
from services.platform.multipart import delete_objects
from services.platform.settings import ApiSettings
from services.platform.transfer import download

OWNER = "123456789012"
HEADER = "x-amz-expected-bucket-owner"
SOURCE = "x-amz-source-expected-bucket-owner"


@pytest.fixture
def owned(settings: ApiSettings) -> ApiSettings:
    return settings.model_copy(update={"bucket_owner": OWNER})


async def test_each_request_to_the_own_bucket_names_its_owner(owned: ApiSettings, aws: Any) -> None:
    seen: list[tuple[str, str | None, str | None]] = []

    def note(request: Any, event_name: str, **_: Any) -> None:
        owner, source = (request.headers.get(name) for name in (HEADER, SOURCE))
        seen.append(
            (event_name.rpartition(".")[2], *(v.decode() if isinstance(v, bytes) else v for v in (owner, source)))
        )

    other = f"{owned.bucket}-other"
    await aws.s3.create_bucket(Bucket=other)
    async with connect_aws(owned) as clients:
        s3 = clients.s3
        s3.meta.events.register("before-send.s3", note)
        await s3.put_object(Bucket=owned.bucket, Key="a", Body=b"abc")
        await download(s3, Location(owned.bucket, "a"), io.BytesIO())
        await s3.copy_object(Bucket=other, Key="b", CopySource={"Bucket": owned.bucket, "Key": "a"})
        await s3.copy_object(Bucket=owned.bucket, Key="c", CopySource={"Bucket": other, "Key": "b"})
        await s3.get_object(Bucket=other, Key="b")
        async for _ in s3.get_paginator("list_objects_v2").paginate(Bucket=owned.bucket):
            pass
        await delete_objects(s3, owned.bucket, ["a", "c"])

    assert seen == [
        ("PutObject", OWNER, None),
        ("GetObject", OWNER, None),
        ("CopyObject", None, OWNER),
        ("CopyObject", OWNER, None),
        ("GetObject", None, None),
        ("ListObjectsV2", OWNER, None),
        ("DeleteObjects", OWNER, None),
    ]


async def test_links_ask_nothing_of_those_who_follow_them(owned: ApiSettings, aws: Any) -> None:
    async with connect_aws(owned) as clients:
        link = await clients.s3.generate_presigned_url("get_object", Params={"Bucket": owned.bucket, "Key": "a"})

    assert HEADER not in link.lower()
