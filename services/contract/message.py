"""The SQS message: a doorbell that says "these tasks are ready" (docs/design.md, section 5)."""

from dataclasses import dataclass
from uuid import UUID

import orjson


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
        value = {"bundle": str(self.bundle_id), "job": str(self.job_id), "stage": self.stage}
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
            return cls(UUID(value["bundle"]), UUID(value["job"]), stage, first, count, suspect, backup_of)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise MessageError(f"not a Piecework message: {error!r}") from error
