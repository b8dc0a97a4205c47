"""Prefixes: every object that is wanted is in exactly one task, in the order of the keys."""

from typing import Any

import pytest

from services.inputs import listing
from services.inputs.chunk import SplitError
from services.platform.aws import Aws
from tests.integration.inputs.conftest import split_all
from tests.integration.scheduler.conftest import Bucket


async def put_all(bucket: Bucket, *keys: str) -> None:
    for key in keys:
        await bucket.put(key, b"" if key.endswith("/") else b"x")


async def split_objects(aws: Aws, bucket: Bucket, prefix: str, **changes: Any) -> list[str]:
    inputs = await split_all(aws, type="objects", prefix=f"s3://{bucket.name}/{prefix}", **changes)
    assert all(part["type"] == "object" and part["etag"] for part in inputs)
    return [part["uri"].removeprefix(f"s3://{bucket.name}/") for part in inputs]


async def test_every_object_under_the_prefix_is_a_task(aws: Aws, bucket: Bucket) -> None:
    await put_all(bucket, "in/a b.txt", "in/c/d.txt", "in/ü%20+.txt", "in/", "in/c/", "inner", "out")

    assert await split_objects(aws, bucket, "in/") == ["in/a b.txt", "in/c/d.txt", "in/ü%20+.txt"]
    assert await split_objects(aws, bucket, "in") == ["in/a b.txt", "in/c/d.txt", "in/ü%20+.txt", "inner"]
    assert len(await split_objects(aws, bucket, "")) == 5


async def test_include_is_a_glob_on_the_rest_of_the_key(aws: Aws, bucket: Bucket) -> None:
    await put_all(bucket, "in/a.csv", "in/b.CSV", "in/c.txt", "in/2026/d.csv", "csv")

    assert await split_objects(aws, bucket, "in/", include="*.csv") == ["in/2026/d.csv", "in/a.csv"]
    assert await split_objects(aws, bucket, "in/", include="?.*") == ["in/a.csv", "in/b.CSV", "in/c.txt"]


async def test_a_prefix_that_gives_no_task_is_an_error(aws: Aws, bucket: Bucket) -> None:
    await put_all(bucket, "in/a.csv", "folder/")

    for prefix, include in (("nowhere/", "*"), ("in/", "*.txt"), ("folder/", "*")):
        with pytest.raises(SplitError, match=r"no object under s3://.* matches"):
            await split_objects(aws, bucket, prefix, include=include)


async def test_a_listing_of_several_pages_is_a_chunk_a_page(aws: Aws, bucket: Bucket, monkeypatch: Any) -> None:
    keys = [f"in/{n:02}" for n in range(10)]
    await put_all(bucket, *keys)
    plain = aws.s3.list_objects_v2

    async def short_pages(**arguments: Any) -> Any:
        return await plain(**arguments, MaxKeys=3)

    monkeypatch.setattr(aws.s3, "list_objects_v2", short_pages)

    assert await split_objects(aws, bucket, "in/") == keys
    assert await split_objects(aws, bucket, "in/", include="*9") == ["in/09"]


async def test_a_large_listing_is_parted_and_comes_in_order(
    aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that share beginnings, that are each other's beginnings, that no code page has, in spans of a few pages."""
    plain = aws.s3.list_objects_v2

    async def short_pages(**arguments: Any) -> Any:
        return await plain(**({"MaxKeys": 3} | arguments))

    monkeypatch.setattr(aws.s3, "list_objects_v2", short_pages)
    monkeypatch.setattr(listing, "PAGES_PER_SPAN", 2)
    monkeypatch.setattr(listing, "SPANS_AT_ONCE", 3)
    names = [f"part-{number:03}" for number in range(25)]
    names += [f"{letter}{number}" for letter in "uvw" for number in range(8)]
    names += ["part-0", "p", "part-01", "q/1", "q/1/2", "é", "日本", "z/"]
    keys = sorted((f"in/{name}" for name in names), key=str.encode)
    await put_all(bucket, *keys, "in.", "ina")
    expected = [key for key in keys if not key.endswith("/")]

    assert await split_objects(aws, bucket, "in/") == expected

    tasks = await split_all(
        aws, type="objects", prefix=f"s3://{bucket.name}/in/", objects_per_task=7, exclude=["part-02*", "[quvw]*"]
    )
    assert [len(task["objects"]) for task in tasks] == [7, 7, 7, 4]
    listed = [object_["uri"].removeprefix(f"s3://{bucket.name}/") for task in tasks for object_ in task["objects"]]
    assert listed == [key for key in expected if not key.startswith(("in/part-02", "in/q", "in/u", "in/v", "in/w"))]
    assert all(object_["etag"] and object_["bytes"] == 1 for task in tasks for object_ in task["objects"])


async def test_objects_are_grouped_by_their_bytes(aws: Aws, bucket: Bucket) -> None:
    for number in range(6):
        await bucket.put(f"in/{number}", b"x" * number)

    tasks = await split_all(aws, type="objects", prefix=f"s3://{bucket.name}/in/", part_bytes=5)
    assert [[object_["bytes"] for object_ in task["objects"]] for task in tasks] == [[0, 1, 2, 3], [4, 5]]
