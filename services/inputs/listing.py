"""The objects under a prefix in the order of their keys, listed in parallel: the keys are divided into spans.

A span is all keys after one string up to another (None: to the end). If it has too many keys for a few pages, it is
divided at the first character in which its keys differ, which is found by listing single keys. The remaining spans, in
order, are the whole state of the listing.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from services.contract.location import Location

SPANS_AT_ONCE = 8
PAGES_PER_SPAN = 12
CHILDREN_MAX = 256
_LAST = "\U0010ffff"  # sorts after every other character

Span = tuple[str, str | None]
WHOLE: Span = ("", None)


@dataclass(frozen=True, slots=True)
class Entry:
    """An object of a listing or manifest; a manifest may lack some of the fields."""

    bucket: str
    key: str
    etag: str | None = None
    size: int | None = None
    version: str | None = None


async def list_some(s3: Any, place: Location, spans: list[Span]) -> tuple[list[Entry], list[Span]]:
    """The next objects, and the spans that remain after them."""
    now, later = spans[:SPANS_AT_ONCE], spans[SPANS_AT_ONCE:]
    listed = await asyncio.gather(*(_list(s3, place, span) for span in now))
    found: list[Entry] = []
    left: list[Span] = []
    for span, (entries, rest) in zip(now, listed, strict=True):
        if not left:
            found += entries
            left += rest
        else:  # its objects wait for those of an earlier span
            left += _with_start(rest, span) if rest else [span]
    return found, left + later


def _with_start(rest: list[Span], span: Span) -> list[Span]:
    """The objects that were listed of a span, and its divided rest."""
    return [(span[0], rest[0][1]), *rest[1:]]


async def _list(s3: Any, place: Location, span: Span) -> tuple[list[Entry], list[Span]]:
    """The first objects of a span, and its rest, divided."""
    after, until = span
    entries: list[Entry] = []
    for _ in range(PAGES_PER_SPAN):
        page = await s3.list_objects_v2(Bucket=place.bucket, Prefix=place.key, StartAfter=after)
        for found in page.get("Contents", []):
            if until is not None and found["Key"] > until:
                return entries, []
            entries.append(Entry(place.bucket, found["Key"], found["ETag"], found["Size"]))
        if not page["IsTruncated"] or (entries and entries[-1].key == until):
            return entries, []
        after = page["Contents"][-1]["Key"]
    return entries, await _part(s3, place, (after, until))


async def _part(s3: Any, place: Location, span: Span) -> list[Span]:
    """The span in pieces, one for each character that follows the common prefix of its keys."""
    after, until = span
    first = await _next_key(s3, place, span)
    if first is None:
        return []
    shared = await _shared_prefix(s3, place, first, until)
    if first == shared:  # it has no next character, all others have
        rest = await _part(s3, place, (first, until))
        return [(after, rest[0][1]), *rest[1:]] if rest else [span]
    pieces: list[Span] = []
    key = first
    while len(pieces) < CHILDREN_MAX:
        bound = shared + key[len(shared)] + _LAST
        following = await _next_key(s3, place, (bound, until))
        if following is None:
            break
        pieces.append((after, bound))
        after, key = bound, following
    return [*pieces, (after, until)]


async def _shared_prefix(s3: Any, place: Location, first: str, until: str | None) -> str:
    """The common prefix of all keys from `first` on: there is no key after those with the prefix."""
    differ = (number for number, (one, other) in enumerate(zip(first, until or "", strict=False)) if one != other)
    low, high = max(len(place.key), next(differ, 0)), len(first)
    while low < high:
        middle = (low + high + 1) // 2
        if await _next_key(s3, place, (first[:middle] + _LAST, until)) is None:
            low = middle
        else:
            high = middle - 1
    return first[:low]


async def _next_key(s3: Any, place: Location, span: Span) -> str | None:
    """The first key of a span, if there is one."""
    after, until = span
    page = await s3.list_objects_v2(Bucket=place.bucket, Prefix=place.key, StartAfter=after, MaxKeys=1)
    found: str | None = next((entry["Key"] for entry in page.get("Contents", [])), None)
    return None if found is None or (until is not None and found > until) else found
