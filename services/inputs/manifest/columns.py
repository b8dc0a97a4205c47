"""What the columns of a manifest mean, by their names or by their values, and a row as an entry.

A CSV without a header line is bucket,key and possibly an ETag, or bucket,key,version of S3 Batch Operations, whose keys
are encoded as in a URL: https://docs.aws.amazon.com/AmazonS3/latest/API/API_control_JobManifestSpec.html. Columns of S3
Inventory: https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory.html.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote_plus

from services.contract.location import Location
from services.inputs.listing import Entry
from services.inputs.spec import ManifestInput

Row = Mapping[str, Any]  # values by what they mean

_MEANINGS = {
    name.replace("_", ""): name
    for name in ("bucket", "key", "uri", "etag", "version_id", "size", "is_latest", "is_delete_marker")
} | {"bytes": "size"}
_ETAG = re.compile(r'"?[0-9a-fA-F]{32}(?:-[0-9]{1,5})?"?')  # of a multipart upload with the number of its parts
_BUCKET_ARN = re.compile(r"arn:[^:]+:s3:::")  # of any partition: aws, aws-cn, aws-us-gov …


def meaning_of(name: str) -> str | None:
    """What a column is by its name, as S3 Inventory writes it in CSV or in Parquet: VersionId, e_tag."""
    return _MEANINGS.get(re.sub("[_ ]", "", name).lower())


def by_name(row: Mapping[str, Any]) -> Row:
    """The values that are there, of the columns that have a meaning."""
    named = ((meaning_of(name), value) for name, value in row.items() if value not in (None, ""))
    return {meaning: value for meaning, value in named if meaning is not None}


def by_place(row: Sequence[str], meanings: Sequence[str | None]) -> Row:
    return {name: value for name, value in zip(meanings, row, strict=False) if name is not None and value}


def by_value(row: Sequence[str]) -> Row:
    """An object as bucket and key or as a URI, and its ETag or version: an ETag has 32 hexadecimal digits."""
    names = ["uri"] if row[0].startswith("s3://") else ["bucket", "key"]
    found = dict(zip(names, row, strict=False))
    if further := "".join(row[len(names) : len(names) + 1]):
        found["etag" if _ETAG.fullmatch(further) else "version_id"] = further
    return found


def meanings_of_header(row: Sequence[str]) -> list[str | None] | None:
    """What a header line names; None if the row is an object."""
    names = [meaning_of(name) for name in row]
    return names if {"bucket", "key"} <= set(names) or (names[:1] == ["uri"] and None not in names) else None


def bucket_of_arn(text: str) -> str:
    """A bucket's name, given as such or as its ARN. Raises ValueError for other ARNs, as those of access points."""
    name = _BUCKET_ARN.sub("", text)
    if name.startswith("arn:"):
        raise ValueError(f"{text!r} is not a bucket: write the name of the bucket")
    return name


def decode_key(key: str) -> str:
    """A key that is encoded as in a URL. Raises ValueError if it does not become UTF-8."""
    return unquote_plus(key, errors="strict")


def entry_of(row: Row, source: ManifestInput, is_encoded: Callable[[Row], bool]) -> Entry | None:
    """None for an object that is gone: a delete marker, or an old version that is not asked for. Raises ValueError."""
    is_old = str(row.get("is_latest")).lower() == "false" and source.versions == "latest"
    if is_old or str(row.get("is_delete_marker")).lower() == "true":
        return None
    uri, bucket, key = (row.get(name) or "" for name in ("uri", "bucket", "key"))
    place = Location.parse(uri) if uri else Location(bucket_of_arn(bucket), key)
    key = decode_key(place.key) if is_encoded(row) else place.key
    if not place.bucket or not key:
        raise ValueError(f"it has neither a uri nor a bucket and a key: {dict(row)!r:.200}")
    etag, size = row.get("etag"), row.get("size")
    return Entry(
        place.bucket,
        key,
        etag and '"{}"'.format(str(etag).strip('"')),
        None if size is None else int(size),
        row.get("version_id"),
    )
