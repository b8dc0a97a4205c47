"""The SQS message: a doorbell that says "these tasks are ready" (docs/design.md, section 5)."""

from dataclasses import dataclass
from uuid import UUID

import orjson

# What the release before calls these fields. It reads no other names, so they are written until the next release, and
# both are read (docs/compatibility.md).
_IDS = (("bundle_id", "bundle"), ("job_id", "job"))


class MessageError(ValueError):
    """The body of a message is not one of ours; the message belongs in the dead-letter queue."""


@dataclass(frozen=True, slots=True)
class Message:
    """A bundle: tasks `first … first + count - 1` of one stage.

    `suspect` says that its one task may be what kills its workers; `backup_of` is the worker who runs it already.
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
