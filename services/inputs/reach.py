"""Where jobs may read and write: places that the operator allows, and what users have in Piecework's own folders.

Nothing else in S3 can be read or written by submitting a job, whatever the services' role may do there.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from services.contract.location import Location
from services.inputs.chunk import SplitError
from services.inputs.spec import Input, ObjectsInput
from services.platform.settings import ANYWHERE, Settings

# What stands in a dry run for files that are yet to be uploaded. No bucket has this name, and ANYWHERE is without it.
YET_TO_UPLOAD = "s3://-/"

_FOLDERS = ("jobs/", "interim/", "uploads/", "uploading/", "packages/")  # services/contract/layout.py
_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_OF_USERS = re.compile(rf"(?:(uploads)|(jobs))/({_UUID})/(?:(results)/|(\d+)/\d+-\d+/)?")


class OutOfReach(SplitError):
    """Jobs may not read or write this; the message names it and the setting that allows it."""


@dataclass(frozen=True, slots=True)
class Folder:
    """Users' data in Piecework's own folders: an upload, a job's results, or the outputs of a job's stage."""

    kind: Literal["upload", "results", "outputs"]
    id: UUID
    stage: int | None = None


class Reach:
    """What one Piecework's jobs may read and write. A place `s3://bucket/data` opens `data/…`, not `database/…`."""

    def __init__(self, settings: Settings) -> None:
        self._own = settings.layout.root
        self._read = _parse(settings.read_from)
        self._write = _parse(settings.write_to)
        self._is_dry = YET_TO_UPLOAD in settings.read_from.split(",")

    def may_read(self, place: Location, prefix: bool = False) -> bool:
        """Whether the operator allows to read this object, or all objects with this prefix."""
        if place.uri.startswith(YET_TO_UPLOAD):
            return self._is_dry
        return _is_plain(place) and not self._is_own(place, prefix) and _covers(self._read, place)

    def may_write(self, place: Location) -> bool:
        """Whether the operator allows results under this prefix. They are never put among Piecework's own objects."""
        folder = Location(place.bucket, f"{place.key.rstrip('/')}/" if place.key.strip("/") else "")
        is_root = folder.bucket == self._own.bucket and _collapsed(folder.key) == self._own.key
        return _is_plain(folder) and not is_root and not self._is_own(folder, True) and _covers(self._write, folder)

    def folder_of(self, place: Location) -> Folder | None:
        """The users' folder that holds this object or prefix."""
        if place.bucket != self._own.bucket or not place.key.startswith(self._own.key) or not _is_plain(place):
            return None
        match = _OF_USERS.match(place.key.removeprefix(self._own.key))
        if match is None:
            return None
        upload, _, id, results, stage = match.groups()
        if upload:
            return Folder("upload", UUID(id))
        if results:
            return Folder("results", UUID(id))
        return Folder("outputs", UUID(id), int(stage)) if stage else None

    def _is_own(self, place: Location, prefix: bool) -> bool:
        """Whether this lies in one of Piecework's own folders or, as a prefix, around one."""
        if place.bucket.lower() != self._own.bucket.lower():
            return False
        key, folders = _collapsed(place.key), [self._own.key + folder for folder in _FOLDERS]
        return any(key.startswith(folder) or (prefix and folder.startswith(key)) for folder in folders)


def _parse(places: str) -> list[Location] | None:
    """The places of a setting; None: anywhere."""
    listed = [place.strip() for place in places.split(",") if place.strip()]
    return (
        None
        if ANYWHERE in listed
        else [Location.parse(place if place.count("/") > 2 else f"{place}/") for place in listed]
    )


def _covers(places: list[Location] | None, place: Location) -> bool:
    return places is None or any(
        place.bucket == allowed.bucket
        and (not allowed.key or place.key == allowed.key or place.key.startswith(f"{allowed.key.rstrip('/')}/"))
        for allowed in places
    )


def _is_plain(place: Location) -> bool:
    """Whether no part of the key could be read as a way up."""
    return not {".", ".."} & set(place.key.split("/"))


def _collapsed(key: str) -> str:
    return re.sub("/+", "/", key).lstrip("/")


def place_of(source: Input) -> tuple[str, str] | None:
    """The field of the input that names something in S3, and its URI."""
    name = "prefix" if isinstance(source, ObjectsInput) else "uri"
    uri = getattr(source, name, None)
    return None if uri is None else (name, uri)


def uris_of(task_input: Mapping[str, Any]) -> Iterator[str]:
    """What a task's input names in S3, in its JSON form."""
    if task_input["type"] == "item":  # a user's value, which only the user's code reads
        return
    if "uri" in task_input:
        yield task_input["uri"]
    for part in task_input.get("objects", ()):
        yield part["uri"]


def refuse_reading(uri: str) -> OutOfReach:
    return OutOfReach(
        f"jobs may not read {uri}: upload the data, or have the operator add its place to PIECEWORK_READ_FROM"
    )


class ReachableS3:
    """An S3 client that reads only what `source` itself names and what jobs may read: a manifest may name anything."""

    def __init__(self, s3: Any, reach: Reach, source: Input) -> None:
        self._s3 = s3
        self._reach = reach
        named = place_of(source)
        self._named = Location.parse(named[1]) if named else None

    def __getattr__(self, operation: str) -> Callable[..., Awaitable[Any]]:
        call = getattr(self._s3, operation)

        async def checked(**arguments: Any) -> Any:
            self._check(Location(arguments["Bucket"], arguments.get("Key") or arguments.get("Prefix") or ""))
            return await call(**arguments)

        return checked

    def _check(self, place: Location) -> None:
        if place == self._named or self._reach.may_read(place) or self._reach.folder_of(place):
            return
        raise refuse_reading(place.uri)
