"""The SQS message: a doorbell that says "these tasks are ready" (docs/design.md, section 5)."""

from dataclasses import dataclass
from uuid import UUID

import orjson


class MessageError(ValueError):
    """The body of a message is not one of ours; the message belongs in the dead-letter queue."""


@dataclass(frozen=True, slots=True)
class Message:
    """A bundle: tasks `first … first + count - 1` of one stage."""

    bundle_id: UUID
    job_id: UUID
    stage: int
    first: int
    count: int

    def encode(self) -> str:
        ids = {"bundle": str(self.bundle_id), "job": str(self.job_id), "stage": self.stage}
        return orjson.dumps(ids | {"first": self.first, "count": self.count}).decode()

    @classmethod
    def decode(cls, body: str) -> "Message":
        """Raises MessageError if `body` is not JSON or lacks a field."""
        try:
            value = orjson.loads(body)
            return cls(
                UUID(value["bundle"]), UUID(value["job"]), int(value["stage"]), int(value["first"]), int(value["count"])
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise MessageError(f"not a Piecework message: {error!r}") from error
