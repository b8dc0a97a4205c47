"""What commands print in the formats that `-o` names, and lists as `--sort` and `--since` ask for them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import typer

from piecework.errors import InputError

if TYPE_CHECKING:
    from piecework.client import Listing
    from piecework.shapes import Page

T = TypeVar("T")

Form = Literal["table", "wide", "name", "json", "yaml"]

SORTED_MAX = 10_000  # items that are read to be sorted

# What names a thing; the first of these that it has, since many things also name others.
_IDS = (
    *("delivery_id", "audit_id", "incident_id", "message_id", "alert_id", "upload_id", "job_id", "backfill_id"),
    *("schedule_id", "trigger_id", "endpoint_id", "worker_id", "key_id"),
)

_SEVERAL = ("items", "parts", "files")  # where the things are in what is a list of them


def render(value: Any, form: Form) -> str:
    """`value` for programs: as JSON or YAML in the shape of the API, or the names of what it is, one a line.

    Raises InputError if it has no names.
    """
    match form:
        case "yaml":
            import yaml

            return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True)).rstrip("\n")
        case "name":
            return "\n".join(names_of(value))
        case _:
            return json.dumps(value, indent=2)


def names_of(value: Any) -> Iterator[str]:
    """What a command takes for each of these: an id, a name, `clean@3`, `0 17` of a task. Raises InputError."""
    if isinstance(value, list):
        for item in value:
            yield from names_of(item)
    elif isinstance(value, Mapping):
        several = next((value[field] for field in _SEVERAL if isinstance(value.get(field), list)), None)
        if several is not None:
            yield from names_of(several)
        elif value and (name := _name_of(value)):
            yield name
    else:
        yield str(value)


def _name_of(item: Mapping[str, Any]) -> str | None:
    """None if it has no name yet, such as a schedule's run that has made no job. Raises InputError."""
    if "fingerprint" in item:
        return str(item["fingerprint"])
    if "name" in item and "version" in item:
        return f"{item['name']}@{item['version']}"
    if "stage" in item and "index" in item:
        return f"{item['stage']} {item['index']}"
    for field in (*_IDS, "name", "uri"):
        if field in item:
            return None if item[field] is None else str(item[field])
    raise InputError("-o name: what this prints has no names; write -o json")


def sort(items: list[T], by: str) -> list[T]:
    """By a field of the items, such as `created_at` (or `created`) or `progress.failed`; after a `-`, descending.

    What has no value comes last. Raises InputError for what is not such a field.
    """
    name = by.removeprefix("-")
    fields = _fields(items)
    field = next((each for each in (name, f"{name}_at") if each in fields), None)
    if field is None and items:
        raise InputError(f"--sort: there is no field {name!r} to sort by; there are {', '.join(sorted(fields))}")
    valued = [(value, item) for item in items if (value := _scalars(item).get(field or "")) is not None]
    rest = [item for item in items if _scalars(item).get(field or "") is None]
    valued.sort(key=lambda pair: pair[0], reverse=by.startswith("-"))
    return [item for _, item in valued] + rest


def _fields(items: list[Any]) -> set[str]:
    return {field for item in items for field in _scalars(item)}


def _scalars(item: Any, before: str = "") -> dict[str, Any]:
    """The values of an item that have an order, by their path."""
    found: dict[str, Any] = {}
    for field, value in item.items():
        if isinstance(value, Mapping):
            found |= _scalars(value, f"{before}{field}.")
        elif not isinstance(value, list):
            found[before + field] = value
    return found


def parse_time(text: str) -> datetime:
    """A moment: how long ago (`90s`, `2h`, `3d`), or a date or time, which is local unless it names a zone."""
    from piecework.units import parse_duration

    with suppress(ValueError):
        return datetime.now().astimezone() - timedelta(seconds=parse_duration(text))
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError as error:
        fix = "write how long ago, such as 2h or 3d, or a time such as 2027-01-31T17:00"
        raise typer.BadParameter(f"{text!r} is not a time; {fix}") from error


def newer(listing: "Listing[T]", since: datetime | None, field: str = "created_at") -> "Listing[T]":
    """The part of a listing, newest first, whose items are not older than `since`; all of it if that is None."""
    from piecework.client import Listing

    if since is None:
        return listing

    def fetch(limit: int, cursor: str | None) -> "Page[T]":
        page = listing.page(limit, cursor)
        items = [item for item in page["items"] if datetime.fromisoformat(cast(Any, item)[field]) >= since]
        over = len(items) < len(page["items"])
        return {"items": items, "next_cursor": None if over else page["next_cursor"]}

    return Listing(fetch)
