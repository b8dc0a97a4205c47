"""Triggers: queues whose messages submit jobs."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, Field

from services.api.pagination import Page
from services.api.shapes.row import Row
from services.contract.fields import Name, QueueUrl, Strict
from services.contract.location import Location


def _check_prefix(prefix: str) -> str:
    if prefix:
        Location.parse(prefix)
    return prefix


MatchedValue = Annotated[str, Field(max_length=10_000)] | int | float | bool | None


class TriggerSpec(Strict):
    """Which messages submit which job."""

    name: Name
    queue_url: QueueUrl = Field(description="Piecework receives, and deletes, all messages of this queue")
    prefix: Annotated[str, Field(max_length=1100), AfterValidator(_check_prefix)] = Field(
        "", description="only created objects whose URI begins with this", examples=["s3://claims/incoming/"]
    )
    suffix: Annotated[str, Field(max_length=200)] = Field(
        "", description="only created objects whose URI ends with this", examples=[".csv"]
    )
    match: dict[Annotated[str, Field(min_length=1, max_length=200)], MatchedValue] = Field(
        {},
        max_length=100,
        description="required values of a message's fields, by dotted path",
        examples=[{"type": "job.succeeded"}],
    )
    job: dict[Annotated[str, Field(max_length=200)], Any] = Field(
        max_length=100,
        description="a job specification; in any of its strings `{uri}`, `{bucket}`, `{key}`, `{filename}`, `{stem}` "
        "and `{bytes}` stand for the created object, `{message.field.field}` for a field of the message",
    )


class Trigger(Row):
    """A queue whose messages submit jobs."""

    trigger_id: UUID
    name: str
    queue_url: str
    prefix: str
    suffix: str
    match: dict[str, Any]
    paused: bool
    last_job_id: UUID | None
    last_message_at: datetime | None = Field(description="when a message last became a job or was dropped as no match")
    last_error: str | None = Field(
        description="why a message last could not become a job (it comes again), or the queue could not be read"
    )
    last_error_at: datetime | None = Field(
        description="when that was; if it is before `last_message_at`, a message has been accepted since"
    )
    unreadable_since: datetime | None = Field(
        description="since when its queue can't be read, as `last_error` says; null: it was read the last time"
    )
    lag_seconds: float | None = Field(description="how long the last message that was received waited in its queue")
    created_at: datetime
    created_by: str | None = Field(description="the principal that it belongs to; null: made before there were any")
    job: dict[str, Any]


class TriggerPage(Page[Trigger]):
    """Triggers, newest first."""
