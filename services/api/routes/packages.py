"""Ship processors' code: the API hands out a link, the archive goes straight to S3."""

from typing import Annotated, Any

from botocore.exceptions import ClientError
from fastapi import APIRouter, Body, Path

from services.api.connections import Api, Connections
from services.api.links import upload_link
from services.api.problems import BODY
from services.api.security import Developer, Operator
from services.api.shapes.packages import Package, PackageSpec
from services.api.strict_json import StrictRoute
from services.engine import removal
from services.platform.multipart import delete_objects
from services.platform.problems import invalid, problems
from services.platform.s3_faults import fault_of

router = APIRouter(prefix="/packages", tags=["processors"], route_class=StrictRoute)

PackageHash = Annotated[
    str, Path(pattern="^[0-9a-f]{64}$", max_length=64, examples=["9f86d081884c7d659a2feaa0c55ad015" * 2])
]

EXAMPLES: Any = {
    "small": {"summary": "A few modules", "value": {"sha256": "9f86d081884c7d659a2feaa0c55ad015" * 2, "bytes": 48213}}
}


@router.post("", operation_id="create_package", responses=problems(*BODY, 502), summary="Push a package")
async def create_package(
    caller: Developer, api: Api, spec: Annotated[PackageSpec, Body(openapi_examples=EXAMPLES)]
) -> Package:
    """Get a link to PUT a zip archive to, unless it is there already. Workers verify its hash before they unpack it."""
    location = api.settings.layout.package(spec.sha256)
    is_there = await package_bytes(api, spec.sha256) == spec.bytes
    async with api.transaction() as connection:
        await removal.note_package(connection, spec.sha256, spec.bytes, caller.principal)
        await caller.record(connection, spec.sha256, bytes=spec.bytes, pushed=not is_there)
    url = None if is_there else await upload_link(api, location, spec.bytes)
    return Package(sha256=spec.sha256, uri=location.uri, bytes=spec.bytes, url=url)


@router.delete(
    "/{sha256}",
    operation_id="delete_package",
    status_code=204,
    responses=problems(404, 409, 502),
    summary="Delete a package",
)
async def delete_package(caller: Operator, api: Api, sha256: PackageHash) -> None:
    """Delete the code of processors that are all deleted. Safe to repeat.

    It is refused while a version of a processor needs it, or a job with a deleted version that can be retried.
    """
    async with api.transaction() as connection:
        await removal.delete_package(connection, sha256)
        await caller.record(connection, sha256)
    location = api.settings.layout.package(sha256)
    await delete_objects(api.aws.s3, location.bucket, [location.key])


async def check_package(api: Connections, sha256: str | None) -> None:
    """Raises a 422 for `package` unless it has been pushed."""
    if sha256 is not None and await package_bytes(api, sha256) is None:
        raise invalid("package", sha256, "no such package was pushed: `piecework processors push DIR` pushes one")


async def package_bytes(api: Connections, sha256: str) -> int | None:
    location = api.settings.layout.package(sha256)
    try:
        head = await api.aws.s3.head_object(Bucket=location.bucket, Key=location.key)
    except ClientError as error:
        if fault_of(error) != "missing":
            raise
        return None
    return int(head["ContentLength"])
