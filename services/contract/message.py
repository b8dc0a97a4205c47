"""The SQS message: a doorbell that says "these tasks are ready" (docs/design.md, section 5)."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from services.contract.resources import Needs

# The previous release's names of these fields. It reads no others, so this release still writes them, and reads both
# (docs/compatibility.md).
_IDS = (("bundle_id", "bundle"), ("job_id", "job"))

# Postgres's types of these columns, and more tasks than any scheduler puts into one bundle (bundle_tasks_max).
_STAGE_MAX = 2**15 - 1
_INDEX_MAX = 2**31 - 1
_COUNT_MAX = 1_000_000

CROWDED_MAX = 10  # times as much work as usual may a bundle hold where many stages share few slots


class MessageError(ValueError):
    """The message is not one of ours; it belongs in the dead-letter queue."""


@dataclass(frozen=True, slots=True)
class Message:
    """A bundle: tasks `first … first + count - 1` of one stage.

    `suspect` says that its only task may kill its workers. `backup_of` is the worker that already runs it, `avoid` one
    that could not. It is only for nodes that have what each of its tasks `needs`. What a worker knows of an earlier
    `revision` of the stage is out of date.
    """

    bundle_id: UUID
    job_id: UUID
    stage: int
    first: int
    count: int
    suspect: bool = False
    backup_of: UUID | None = None
    avoid: UUID | None = None
    needs: Needs | None = None
    revision: int = 0

    def encode(self) -> str:
        value: dict[str, Any] = {old: str(getattr(self, new)) for new, old in _IDS}
        value |= {"stage": self.stage, "first": self.first, "count": self.count}
        if self.suspect:
            value["suspect"] = True
        if self.backup_of is not None:
            value["backup_of"] = str(self.backup_of)
        if self.avoid is not None:
            value["avoid"] = str(self.avoid)
        if self.needs is not None:
            value["needs"] = self.needs.to_json()
        if self.revision:
            value["revision"] = self.revision
        return orjson.dumps(value).decode()

    @classmethod
    def decode(cls, body: str) -> "Message":
        """Raises MessageError if `body` is not JSON, or if a field is missing, of another type or out of its bounds."""
        try:
            value = orjson.loads(body)
            backup_of, avoid = (
                None if value.get(name) is None else UUID(value[name]) for name in ("backup_of", "avoid")
            )
            bundle_id, job_id = (UUID(value[new] if new in value else value[old]) for new, old in _IDS)
            stage, first, count = (value[name] for name in ("stage", "first", "count"))
            suspect, needs = value.get("suspect", False), Needs.of(value.get("needs"))
            revision = value.get("revision", 0)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise MessageError(f"not a Piecework message: {error!r:.500}") from error
        _check("stage", stage, 0, _STAGE_MAX)
        _check("count", count, 1, _COUNT_MAX)
        _check("first", first, 0, _INDEX_MAX + 1 - count)
        _check("revision", revision, 0, _INDEX_MAX)
        if type(suspect) is not bool:
            raise MessageError(f"not a Piecework message: suspect = {suspect!r:.100} is not true or false")
        return cls(bundle_id, job_id, stage, first, count, suspect, backup_of, avoid, needs, revision)


def _check(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:  # a bool is an int, too
        raise MessageError(f"not a Piecework message: {name} = {value!r:.100} is not an integer from {least} to {most}")
