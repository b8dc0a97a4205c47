"""The audit log."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from services.api.pagination import Page
from services.api.shapes.row import Row
from services.engine.audit import Outcome


class AuditEntry(Row):
    """A change, or a refused one: who, what, when, from where."""

    audit_id: UUID
    at: datetime
    key_id: UUID | None = Field(description="null: the scheduler, for the owner of a schedule or trigger")
    principal: str | None
    role: str = Field(description="of the key at that time, or `scheduler`", examples=["submitter"])
    action: str = Field(description="an operation of this API", examples=["cancel_job"])
    outcome: Outcome
    subject_kind: str = Field(examples=["job"])
    subject: str | None = Field(description="the id or the name of what was changed")
    summary: dict[str, Any] = Field(description="what was changed, or why it was refused")
    address: str | None = Field(description="of the client")
    request_id: str | None = Field(description="the request's X-Request-ID: as it was sent, or as the answer had it")


class AuditPage(Page[AuditEntry]):
    """Entries, newest first."""
