"""A prefix: the objects under it, in the order of their keys, one or several per task."""

import asyncio
from typing import Any

from services.contract.location import Location
from services.inputs.chunk import Chunk, SplitError
from services.inputs.groups import Groups, describe_globs
from services.inputs.listing import WHOLE, Span, list_some
from services.inputs.spec import ObjectsInput


async def split(s3: Any, source: ObjectsInput, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    """Raises SplitError if the prefix has no matching object."""
    cursor = cursor or {"spans": [WHOLE], "found": 0}
    place = Location.parse(source.prefix)
    spans: list[Span] = [(after, until) for after, until in cursor["spans"]]
    groups = await asyncio.to_thread(Groups, source, skip=len(place.key), settled=spans[0][0])
    while True:
        entries, spans = await list_some(s3, place, spans)
        await asyncio.to_thread(groups.add, entries)
        if groups.inputs or not groups.open or not spans:
            break
    if not spans:
        groups.close()
    elif groups.open:  # its objects are listed again, with those that follow
        spans = [(groups.settled, spans[0][0]), *spans]
    found, left_out = cursor["found"] + len(groups.inputs), cursor.get("left_out", 0) + groups.left_out
    if not spans and not found:
        raise SplitError(f"no object under {source.prefix} matches {describe_globs(source, left_out)}")
    return Chunk(groups.inputs, {"spans": spans, "found": found, "left_out": left_out}, not spans)


async def look(s3: Any, source: ObjectsInput) -> None:
    """Raises SplitError if there is nothing under the prefix."""
    place = Location.parse(source.prefix)
    listing = await s3.list_objects_v2(Bucket=place.bucket, Prefix=place.key, MaxKeys=1)
    if listing["KeyCount"] == 0:
        raise SplitError("no object is under this prefix; upload the data first")
