"""Uploads that nobody completes or uses, and packages of which no version is left, go; what is needed stays."""

from typing import Any
from uuid import UUID

import pytest

from services.platform.database import Database, new_id
from services.platform.settings import Settings
from services.scheduler.loop import Context
from services.scheduler.loops import leftovers
from tests.integration.engine.play import Play, add_processor
from tests.integration.scheduler.conftest import Bucket


@pytest.fixture
def context(context: Context) -> Context:
    changes = {"keep_uploads": 86_400.0, "keep_packages": 86_400.0}
    return Context(context.database, context.aws, context.settings.model_copy(update=changes))


async def keys(bucket: Bucket) -> list[str]:
    answer = await bucket.s3.list_objects_v2(Bucket=bucket.name)
    return [entry["Key"] for entry in answer.get("Contents", [])]


async def upload(
    database: Database, settings: Settings, bucket: Bucket, days: float, *, completed: bool, multipart: bool = False
) -> UUID:
    upload_id = new_id()
    place = settings.layout.upload(upload_id, "a.csv")
    if completed or not multipart:
        await bucket.put(place.key, b"a\n1\n")
    parts = None
    if multipart:
        answer = await bucket.s3.create_multipart_upload(Bucket=place.bucket, Key=place.key)
        parts = answer["UploadId"]
    await database.execute(
        "INSERT INTO uploads (upload_id, uri, bytes, multipart_id, created_at, completed_at) "
        "VALUES ($1, $2, 4, $3, now() - $4 * interval '1 day', CASE WHEN $5 THEN now() - $4 * interval '1 day' END)",
        *(upload_id, place.uri, parts, days, completed),
    )
    return upload_id


async def take_all(context: Context) -> None:
    while await leftovers.step(context):
        pass


@pytest.mark.parametrize("multipart", [False, True])
async def test_an_upload_that_is_never_completed_goes(context: Context, bucket: Bucket, multipart: bool) -> None:
    old = await upload(context.database, context.settings, bucket, 8, completed=False, multipart=multipart)
    new = await upload(context.database, context.settings, bucket, 6, completed=False)
    await take_all(context)
    assert [key.split("/")[1] for key in await keys(bucket)] == [str(new)]
    assert await bucket.unfinished_uploads() == []
    row = await context.database.fetchrow("SELECT * FROM uploads WHERE upload_id = $1", old)
    assert row is not None
    assert row["aborted_at"] <= row["removed_at"]

    await context.database.execute("UPDATE uploads SET removed_at = removed_at - interval '31 days'")
    await take_all(context)
    assert await context.database.fetchval("SELECT array_agg(upload_id) FROM uploads") == [new]


async def test_an_upload_that_nothing_uses_goes(context: Context, play: Play, bucket: Bucket) -> None:
    idle, read, wanted, fresh = [
        await upload(context.database, context.settings, bucket, days, completed=True) for days in (2, 2, 2, 0.5)
    ]

    def named(upload_id: UUID) -> dict[str, Any]:
        uri = context.settings.layout.upload(upload_id, "a.csv").uri
        return {"type": "lines", "uri": uri, "format": "csv"}

    await play.submit(input=named(read))
    await context.database.execute("UPDATE jobs SET state = 'succeeded'")
    await play.submit(input=named(wanted))
    await context.database.execute("UPDATE uploads SET used_at = NULL WHERE upload_id = $1", wanted)
    await take_all(context)
    assert {key.split("/")[1] for key in await keys(bucket)} == {str(read), str(wanted), str(fresh)}
    assert str(idle) not in str(await keys(bucket))


async def test_a_package_of_which_no_version_is_left_goes(context: Context, play: Play, bucket: Bucket) -> None:
    layout = context.settings.layout
    unused, used, deleted = ("0" * 64, "1" * 64, "2" * 64)
    for sha256 in (unused, used, deleted):
        await bucket.put(layout.package(sha256).key, b"PK")
        statement = "INSERT INTO packages (sha256, pushed_at) VALUES ($1, now() - interval '2 days')"
        await context.database.execute(statement, sha256)
    await add_processor(context.database, "used", records="m:f", package=used)
    await add_processor(context.database, "deleted", records="m:f", package=deleted)
    await context.database.execute("UPDATE processors SET deleted_at = now() WHERE name = 'deleted'")
    job_id = await play.submit(stages=[{"processor": "used"}])
    await context.database.execute("UPDATE stages SET processor = 'deleted' WHERE job_id = $1", job_id)
    await context.database.execute("UPDATE jobs SET state = 'failed'")  # it may be retried
    await take_all(context)
    assert await keys(bucket) == [layout.package(used).key, layout.package(deleted).key]

    await context.database.execute("UPDATE jobs SET state = 'succeeded'")
    await take_all(context)
    assert await keys(bucket) == [layout.package(used).key]
