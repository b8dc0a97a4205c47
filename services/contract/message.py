"""The SQS message: a doorbell that says "these tasks are ready" (docs/design.md, section 5)."""

from dataclasses import dataclass
from uuid import UUID

import orjson

# The previous release's names of these fields. It reads no others, so this release still writes them, and reads both
# (docs/compatibility.md).
_IDS = (("bundle_id", "bundle"), ("job_id", "job"))


class MessageError(ValueError):
    """The message is not one of ours; it belongs in the dead-letter queue."""


@dataclass(frozen=True, slots=True)
class Message:
    """A bundle: tasks `first … first + count - 1` of one stage.

    `suspect` says that its only task may kill its workers. `backup_of` is the worker that already runs it.
    """

    bundle_id: UUID
    job_id: UUID
    stage: int
    first: int
    count: int
    suspect: bool = False
    backup_of: UUID | None = None

    def encode(self) -> str:
        value = {old: str(getattr(self, new)) for new, old in _IDS} | {"stage": self.stage}
        value |= {"first": self.first, "count": self.count}
        if self.suspect:
            value["suspect"] = True
        if self.backup_of is not None:
            value["backup_of"] = str(self.backup_of)
        return orjson.dumps(value).decode()

    @classmethod
    def decode(cls, body: str) -> "Message":
        """Raises MessageError if `body` is not JSON or lacks a field."""
        try:
            value = orjson.loads(body)
            backup_of = UUID(value["backup_of"]) if value.get("backup_of") else None
            stage, first, count = (int(value[name]) for name in ("stage", "first", "count"))
            suspect = bool(value.get("suspect"))
            bundle_id, job_id = (UUID(value[new] if new in value else value[old]) for new, old in _IDS)
            return cls(bundle_id, job_id, stage, first, count, suspect, backup_of)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise MessageError(f"not a Piecework message: {error!r}") from error
