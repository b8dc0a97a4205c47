"""Leftovers: uploads that are never completed or not used any more, and packages of which no version is left, go."""

from functools import partial

import structlog
from asyncpg import Record
from botocore.exceptions import ClientError

from services.contract.location import Location
from services.engine import retention
from services.platform.concurrency import map_at_most
from services.platform.multipart import delete_all, delete_objects
from services.platform.s3_faults import error_code
from services.scheduler.loop import Context

log = structlog.get_logger()

UPLOADS_MAX = 100  # a step
PACKAGES_MAX = 100
AT_ONCE = 8
ROWS_MAX = 1_000
FORGET_DAYS = 30  # after its objects, an upload's row goes

# Not one that is being completed at the moment: services/api/uploads.py holds this lock.
_ABORT = """
    UPDATE uploads SET aborted_at = now() WHERE upload_id = ANY(ARRAY(
        SELECT upload_id FROM uploads
        WHERE completed_at IS NULL AND aborted_at IS NULL AND created_at < now() - $1 * interval '1 second'
          AND pg_try_advisory_xact_lock(hashtextextended('upload ' || upload_id, 0))
        ORDER BY upload_id LIMIT $2 FOR UPDATE SKIP LOCKED))"""

_UNUSED = """
    SELECT upload_id FROM uploads
    WHERE completed_at IS NOT NULL AND aborted_at IS NULL
      AND greatest(completed_at, used_at) < now() - $1 * interval '1 second'
    ORDER BY upload_id LIMIT $2"""

_USED = "UPDATE uploads SET used_at = now() WHERE upload_id = $1"

_EXPIRE = """
    UPDATE uploads SET aborted_at = now() WHERE upload_id = $1 AND aborted_at IS NULL
      AND greatest(completed_at, used_at) < now() - $2 * interval '1 second'"""

_ABORTED = """
    SELECT upload_id, uri, multipart_id FROM uploads WHERE aborted_at IS NOT NULL AND removed_at IS NULL
    ORDER BY upload_id LIMIT $1"""

_REMOVED = "UPDATE uploads SET removed_at = now() WHERE upload_id = $1"

_FORGET = """
    DELETE FROM uploads WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM uploads WHERE removed_at < now() - $1 * interval '1 day' LIMIT $2))"""

_EXPIRE_PACKAGES = """
    UPDATE packages SET deleted_at = now() WHERE sha256 = ANY(ARRAY(
        SELECT k.sha256 FROM packages AS k
        WHERE k.deleted_at IS NULL AND k.pushed_at < now() - $1 * interval '1 second' AND NOT EXISTS (
            SELECT FROM processors AS p WHERE p.spec ->> 'package' = k.sha256 AND (p.deleted_at IS NULL OR EXISTS (
                SELECT FROM stages AS s JOIN jobs AS j ON j.job_id = s.job_id
                WHERE s.processor = p.name AND s.processor_version = p.version AND j.state <> 'succeeded')))
        LIMIT $2 FOR UPDATE SKIP LOCKED))"""

_DELETED_PACKAGES = "SELECT sha256 FROM packages WHERE deleted_at IS NOT NULL ORDER BY deleted_at LIMIT $1"

_FORGET_PACKAGE = "DELETE FROM packages WHERE sha256 = $1 AND deleted_at IS NOT NULL"


async def step(context: Context) -> bool:
    """Some of each; True if there may be more."""
    database, settings = context.database, context.settings
    ended = await database.execute(_ABORT, settings.uploads_open_seconds, UPLOADS_MAX)
    if settings.keep_uploads != "forever":
        await _expire_uploads(context, settings.keep_uploads)
    aborted = await database.fetch(_ABORTED, UPLOADS_MAX)
    await map_at_most(AT_ONCE, partial(_remove_upload, context), aborted)
    forgotten = await database.execute(_FORGET, FORGET_DAYS, ROWS_MAX)
    if settings.keep_packages != "forever":
        await database.execute(_EXPIRE_PACKAGES, settings.keep_packages, PACKAGES_MAX)
    packages = await database.fetch(_DELETED_PACKAGES, PACKAGES_MAX)
    await map_at_most(AT_ONCE, partial(_remove_package, context), packages)
    return bool(aborted or packages or ended != "UPDATE 0" or forgotten == f"DELETE {ROWS_MAX}")


async def _expire_uploads(context: Context, seconds: float) -> None:
    for row in await context.database.fetch(_UNUSED, seconds, UPLOADS_MAX):
        upload_id = row["upload_id"]
        if await retention.find_need(context.database, f"/uploads/{upload_id}/"):
            await context.database.execute(_USED, upload_id)
        else:
            await context.database.execute(_EXPIRE, upload_id, seconds)


async def _remove_upload(context: Context, upload: Record) -> None:
    s3, layout, place = context.aws.s3, context.settings.layout, Location.parse(upload["uri"])
    if upload["multipart_id"] is not None:
        try:
            await s3.abort_multipart_upload(Bucket=place.bucket, Key=place.key, UploadId=upload["multipart_id"])
        except ClientError as error:
            if error_code(error) not in ("NoSuchUpload", "404"):
                raise
    for prefix in (layout.uploading(upload["upload_id"], ""), layout.upload(upload["upload_id"], "")):
        await delete_all(s3, prefix)
    await context.database.execute(_REMOVED, upload["upload_id"])
    log.info("upload removed", upload=str(upload["upload_id"]))


async def _remove_package(context: Context, package: Record) -> None:
    location = context.settings.layout.package(package["sha256"])
    await delete_objects(context.aws.s3, location.bucket, [location.key])
    await context.database.execute(_FORGET_PACKAGE, package["sha256"])
    log.info("package removed", package=package["sha256"])
