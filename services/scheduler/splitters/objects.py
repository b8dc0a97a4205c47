"""A prefix: every object under it is a task, a page of the listing a chunk."""

from fnmatch import fnmatchcase
from typing import Any

from services.common.aws import Aws
from services.common.layout import Location
from services.common.spec import ObjectsInput
from services.scheduler.splitters.chunk import Chunk, SplitError


async def split(aws: Aws, source: ObjectsInput, cursor: dict[str, Any] | None) -> Chunk:
    """Raises SplitError if the whole prefix holds no object to work on."""
    cursor = cursor or {"after": "", "found": 0}
    place = Location.parse(source.prefix)
    page = await aws.s3.list_objects_v2(Bucket=place.bucket, Prefix=place.key, StartAfter=cursor["after"])
    entries = page.get("Contents", [])
    inputs = [
        {"type": "object", "uri": Location(place.bucket, entry["Key"]).uri, "etag": entry["ETag"]}
        for entry in entries
        if _wanted(entry, place.key, source.include)
    ]
    found = cursor["found"] + len(inputs)
    done = not page["IsTruncated"]
    if done and not found:
        raise SplitError(f"no object under {source.prefix} matches {source.include!r}")
    return Chunk(inputs, {"after": entries[-1]["Key"] if entries else cursor["after"], "found": found}, done)


def _wanted(entry: dict[str, Any], prefix: str, include: str) -> bool:
    folder_marker = entry["Key"].endswith("/") and entry["Size"] == 0
    return not folder_marker and fnmatchcase(entry["Key"][len(prefix) :], include)
