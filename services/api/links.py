"""Presigned links: bytes go straight between the user and S3."""

from typing import Any
from urllib.parse import quote

from services.api.connections import Connections
from services.contract.location import Location


async def _presign(api: Connections, operation: str, location: Location, **params: Any) -> str:
    params |= {"Bucket": location.bucket, "Key": location.key}
    url: str = await api.aws.s3.generate_presigned_url(operation, Params=params, ExpiresIn=api.settings.link_seconds)
    return url


async def download_link(api: Connections, location: Location, filename: str) -> str:
    """A URL that downloads the object under this file name."""
    disposition = f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
    return await _presign(api, "get_object", location, ResponseContentDisposition=disposition)


async def read_link(api: Connections, location: Location, version: str | None) -> str:
    """A URL for programs that reads the object, or one version of it."""
    return await _presign(api, "get_object", location, **({} if version is None else {"VersionId": version}))


async def upload_link(api: Connections, location: Location, size: int) -> str:
    """A URL that takes the whole object in one PUT of exactly this many bytes: the length is signed."""
    return await _presign(api, "put_object", location, ContentLength=size)


async def part_link(api: Connections, location: Location, multipart_id: str, number: int, size: int) -> str:
    """A URL that takes one part of a multipart upload in a PUT of exactly this many bytes."""
    return await _presign(api, "upload_part", location, UploadId=multipart_id, PartNumber=number, ContentLength=size)


async def upload_form(api: Connections, prefix: Location, bytes_max: int) -> dict[str, Any]:
    """A form (`url` and `fields`) that accepts any number of objects of up to this size under the prefix."""
    form: dict[str, Any] = await api.aws.s3.generate_presigned_post(
        prefix.bucket,
        f"{prefix.key}${{filename}}",  # for boto, this ending means that any name may follow
        Conditions=[["content-length-range", 0, bytes_max]],
        ExpiresIn=api.settings.link_seconds,
    )
    return form
