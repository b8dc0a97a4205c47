"""The events in a message of a trigger's queue: created objects (by S3 or EventBridge, also in SNS), or any JSON."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote_plus

import orjson

from services.contract.location import Location
from services.engine.templates import MissingValue, find_value

EVENTS_MAX = 1000  # of one message, whose jobs are submitted together; S3 tells of one object in each


class UnreadableMessage(ValueError):
    """The body is not a JSON object, or tells of too many; the message says so."""


@dataclass(frozen=True, slots=True)
class Event:
    """One reason to submit a job: `values` for its template, and a `key` that is the same if the event is repeated."""

    key: str
    values: dict[str, Any]


def read_events(
    message_id: str, body: str, *, prefix: str = "", suffix: str = "", match: Mapping[str, Any] | None = None
) -> list[Event]:
    """The events of a message that a trigger waits for. Raises UnreadableMessage.

    A message counts only if its fields, by dotted path, equal those in `match`. With a `prefix` (s3://bucket/prefix) or
    a `suffix`, only created objects with such URIs are events. Without them, every message is an event, and may be a
    created object. S3's test event is not an event.
    """
    value = _unwrap(body)
    if value.get("Event") == "s3:TestEvent" or not all(_has(value, *field) for field in (match or {}).items()):
        return []
    created = list(islice(_created_objects(value), EVENTS_MAX + 1))
    if len(created) > EVENTS_MAX:
        raise UnreadableMessage(f"a message tells of more than {EVENTS_MAX} objects")
    if created or prefix or suffix:
        return [
            Event(f"{uri} {version}", _object_values(Location.parse(uri), facts) | {"message": value})
            for uri, version, facts in created
            if uri.startswith(prefix) and uri.endswith(suffix)
        ]
    return [Event(message_id, {"message": value})]


def _has(value: dict[str, Any], path: str, expected: Any) -> bool:
    try:
        return bool(find_value(path, value) == expected)
    except MissingValue:
        return False


def _unwrap(body: str) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
        if isinstance(value, dict) and value.get("Type") == "Notification" and isinstance(value.get("Message"), str):
            value = orjson.loads(value["Message"])  # delivered by SNS
    except orjson.JSONDecodeError as error:
        raise UnreadableMessage(f"a message is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UnreadableMessage(f"a message is a JSON {type(value).__name__}, not an object")
    return value


def _created_objects(value: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """URI, version and facts of each object that the message says was created.

    S3 writes keys as in a form (docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html),
    EventBridge as they are.
    """
    records = value.get("Records")
    for record in records if isinstance(records, list) else []:
        if str(record.get("eventName", "")).removeprefix("s3:").startswith("ObjectCreated:"):
            facts = record["s3"]["object"]
            uri = Location(record["s3"]["bucket"]["name"], unquote_plus(facts["key"])).uri
            yield uri, _version(facts), facts
    if value.get("source") == "aws.s3" and value.get("detail-type") == "Object Created":
        facts = value["detail"]["object"]
        yield Location(value["detail"]["bucket"]["name"], facts["key"]).uri, _version(facts), facts


def _version(facts: dict[str, Any]) -> str:
    """Distinguishes this object from a later one with the same key."""
    names = ("versionId", "version-id", "sequencer", "eTag", "etag")
    return next((str(facts[name]) for name in names if facts.get(name)), "")


def _object_values(location: Location, facts: dict[str, Any]) -> dict[str, Any]:
    path = PurePosixPath(location.key)
    return {
        "uri": location.uri,
        "bucket": location.bucket,
        "key": location.key,
        "filename": path.name,
        "stem": path.name.partition(".")[0],
        "bytes": facts.get("size"),
    }
