"""What users can do wrong."""

from typing import Any


class SpecError(ValueError):
    """A field of a well-formed submission can't be accepted; `field` is its dotted path, `mend` what to do."""

    def __init__(self, field: str, value: Any, mend: str) -> None:
        super().__init__(f"{field}: {value!r}: {mend}")
        self.field = field
        self.value = value
        self.mend = mend


class Conflict(Exception):
    """The job (worker, pool) is in a state that does not allow this; the message names both."""


class NotFound(LookupError):
    """There is no such job, worker or pool."""
