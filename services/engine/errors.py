"""Errors that users can cause."""

from typing import Any

from pydantic import ValidationError


class SpecError(ValueError):
    """A field of a well-formed submission can't be accepted; `field` is its dotted path, `fix` says what to do."""

    def __init__(self, field: str, value: Any, fix: str) -> None:
        super().__init__(f"{field}: {value!r}: {fix}")
        self.field = field
        self.value = value
        self.fix = fix


class PlaceRefused(SpecError):
    """A job may not read or write the place, or use the queue, that the field names."""


def explain(error: ValidationError) -> str:
    """Each bad field and what is wrong with it, in one line."""
    faults = [(each["loc"], each["msg"].removeprefix("Value error, ")) for each in error.errors()]
    return "; ".join(f"{'.'.join(map(str, place))}: {what}" if place else what for place, what in faults)


class Conflict(Exception):
    """The job (worker, pool) is in a state that does not allow this; the message names both."""


class NotFound(LookupError):
    """There is no such job, worker or pool."""
