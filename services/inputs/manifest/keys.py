"""Whether the keys of a CSV are plain or encoded as in a URL, where nothing says so: by which objects exist.

`a+b` and `a%20b` are good keys of objects, and S3's own manifests write `a b` so. A manifest is written by one program,
so its first key that tells decides for all; two objects that would both fit are never guessed between.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Literal

from botocore.exceptions import ClientError

from services.contract.location import Location
from services.inputs.chunk import SplitError
from services.inputs.listing import Entry
from services.inputs.manifest.columns import decode_key
from services.inputs.reach import OutOfReach
from services.platform.s3_faults import fault_of

Keys = Literal["plain", "url_encoded"]

LOOKS_MAX = 20  # a page: all objects of a manifest may be gone
_TELLING = re.compile(r"\+|%[0-9A-Fa-f]{2}")


async def tell_keys(s3: Any, entries: Sequence[Entry]) -> Keys | None:
    """None if no key tells. Raises SplitError if both readings of a key are objects."""
    telling = (entry for entry in entries if entry.version is None and _TELLING.search(entry.key))
    for entry, _ in zip(telling, range(LOOKS_MAX), strict=False):
        try:
            decoded = Location(entry.bucket, decode_key(entry.key))
        except ValueError:
            return "plain"
        plain = Location(entry.bucket, entry.key)
        is_plain, is_encoded = await asyncio.gather(_exists(s3, plain), _exists(s3, decoded))
        if is_plain and is_encoded:
            raise SplitError(
                f"the key {entry.key!r} may be {plain.uri} or, encoded as in a URL, {decoded.uri}, and both exist: "
                "say keys: plain or keys: url_encoded"
            )
        if is_plain or is_encoded:
            return "plain" if is_plain else "url_encoded"
    return None


async def _exists(s3: Any, location: Location) -> bool:
    """Whether the object is known to exist. (Without the right to list the bucket, a missing one is refused.)"""
    try:
        await s3.head_object(Bucket=location.bucket, Key=location.key)
    except OutOfReach:
        return False
    except ClientError as error:
        if fault_of(error) in ("missing", "refused", "misnamed"):
            return False
        raise
    return True
