"""A manifest: the objects that it lists, in its order, one or several per task; streamed, a chunk at a time.

An S3 Inventory is a manifest of manifests: its manifest.json names files of rows in CSV (by gzip), ORC or Parquet.
"""

import asyncio
from pathlib import PurePosixPath
from typing import Any

import orjson

from services.contract.location import Location
from services.inputs.chunk import Chunk, SplitError
from services.inputs.groups import Groups, describe_globs
from services.inputs.listing import Entry
from services.inputs.manifest.columns import bucket_of_arn
from services.inputs.manifest.rows import ManifestError, ManifestFile, RowPage, read_rows
from services.inputs.registry import compression_suffix, format_of
from services.inputs.spec import ManifestInput
from services.platform.reads import PinnedObject

_FORMATS = ("csv", "jsonl", "parquet")
TASKS_PER_CHUNK = 5_000  # limit, since a row group may hold millions of rows
_INVENTORY_BYTES_MAX = 16_777_216


async def split(s3: Any, source: ManifestInput, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    """Raises SplitError if the manifest can't be read, or lists nothing to work on."""
    if cursor is None:
        cursor = {"files": await _find_files(s3, source), "file": 0, "row": None, "skip": 0, "found": 0}
    files = [*cursor["files"]]
    groups = await asyncio.to_thread(Groups, source)
    number, position, skip = cursor["file"], cursor["row"], cursor["skip"]
    settled = (number, position, skip)  # tasks cover everything before this: a page of a file, and rows of it to skip
    while number < len(files):
        file = ManifestFile(**files[number])
        page: RowPage = await read_rows(s3, source, file, position)
        files[number] = page.file.as_json()
        row, full = await asyncio.to_thread(_fill, groups, page.entries, skip)
        if row is not None:
            settled = (number, position, row)
        if full:
            return _chunk(cursor | {"files": files}, groups, settled, done=False)
        number, position, skip = (number + 1, None, 0) if page.next is None else (number, page.next, 0)
        if not groups.open:
            settled = (number, position, skip)
        if groups.inputs or not groups.open:
            break
    done = number == len(files)
    if done:
        groups.close()
        settled = (number, None, 0)
    chunk = _chunk(cursor | {"files": files}, groups, settled, done)
    if done and not chunk.cursor["found"]:
        raise SplitError(f"no object in {source.uri} matches {describe_globs(source, chunk.cursor['left_out'])}")
    return chunk


def _fill(groups: Groups, entries: list[Entry], skip: int) -> tuple[int | None, bool]:
    """Add a page's entries behind the first `skip`, until the chunk is full: the last row up to which tasks cover all
    (None: they still cover what they did), and whether the chunk is full."""
    settled = None
    for row, entry in enumerate(entries[skip:], start=skip + 1):
        groups.add([entry])
        if not groups.open:
            settled = row
        if len(groups.inputs) == TASKS_PER_CHUNK:
            return settled, True
    return settled, False


def _chunk(cursor: dict[str, Any], groups: Groups, settled: tuple[int, int | None, int], done: bool) -> Chunk:
    at = dict(zip(("file", "row", "skip"), settled, strict=True))
    counts = {"found": cursor["found"] + len(groups.inputs), "left_out": cursor.get("left_out", 0) + groups.left_out}
    return Chunk(groups.inputs, cursor | at | counts, done)


async def look(s3: Any, source: ManifestInput) -> None:
    """Raises SplitError."""
    await _find_files(s3, source)


async def _find_files(s3: Any, source: ManifestInput) -> list[dict[str, Any]]:
    """The files that hold the manifest's rows."""
    object_ = await PinnedObject.find(s3, source.uri)
    format = source.format or _format_of(object_.location.key)
    if format is None:
        raise SplitError(f"can't tell the format of {source.uri} by its name; say its format: csv, jsonl, parquet")
    if source.fields is not None and format != "csv":
        raise SplitError(f"fields are for a manifest in CSV, and {source.uri} is of format {format}: leave them out")
    if format == "inventory":
        return await _inventory_files(object_)
    return [ManifestFile(source.uri, object_.etag, object_.size, format).as_json()]


def _format_of(key: str) -> str | None:
    """The format by the name; a manifest may only be compressed with gzip."""
    if PurePosixPath(key).name == "manifest.json":
        return "inventory"
    found = format_of(key)
    known = found is not None and found.name in _FORMATS and compression_suffix(key) in ("", ".gz")
    return found.name if found and known else None


async def _inventory_files(object_: PinnedObject) -> list[dict[str, Any]]:
    uri = object_.location.uri
    try:
        manifest = orjson.loads(await object_.read(0, _INVENTORY_BYTES_MAX))
        kind = manifest["fileFormat"].lower()
        bucket = bucket_of_arn(manifest["destinationBucket"])
        columns = [name.strip() for name in manifest["fileSchema"].split(",")] if kind == "csv" else None
        listed = [(Location(bucket, file["key"]), file["size"]) for file in manifest["files"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{uri} is not the manifest.json of an S3 Inventory: {error!r}") from None
    if kind not in ("csv", "orc", "parquet"):
        raise ManifestError(
            f"{uri}: an inventory in {manifest['fileFormat']} can't be read; make one in CSV, ORC or Parquet"
        )
    return [ManifestFile(place.uri, None, size, kind, columns).as_json() for place, size in listed]
