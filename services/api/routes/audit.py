"""Who changed what, when and from where."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime
from sqlmodel import col, select

from services.api import tables
from services.api.connections import Session
from services.api.pagination import Pages
from services.api.security import Operator
from services.api.shapes.audit import AuditEntry, AuditPage
from services.api.strict_json import StrictRoute
from services.engine.audit import Outcome

router = APIRouter(prefix="/audit", tags=["audit"], route_class=StrictRoute)


@router.get("", operation_id="list_audit", summary="List changes")
async def list_audit(
    _caller: Operator,
    session: Session,
    pages: Pages,
    principal: Annotated[str | None, Query(max_length=200, description="whose keys asked")] = None,
    action: Annotated[str | None, Query(max_length=200, description="an operation, such as `cancel_job`")] = None,
    subject: Annotated[str | None, Query(max_length=200, description="id or name of what was changed")] = None,
    outcome: Annotated[Outcome | None, Query(description="changes that were made, or that were refused")] = None,
    since: Annotated[AwareDatetime | None, Query(description="not before this time")] = None,
    until: Annotated[AwareDatetime | None, Query(description="before this time")] = None,
) -> AuditPage:
    """Every change and every refused one, newest first. Entries are kept for `PIECEWORK_AUDIT_DAYS`."""
    entry = tables.AuditEntry
    statement = select(entry)
    for column, value in (
        (entry.principal, principal),
        (entry.action, action),
        (entry.subject, subject),
        (entry.outcome, outcome),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if since is not None:
        statement = statement.where(col(entry.at) >= since)
    if until is not None:
        statement = statement.where(col(entry.at) < until)
    rows, next_cursor = await pages.fetch(session, statement, entry.audit_id, newest_first=True)
    return AuditPage(items=[AuditEntry.model_validate(row) for row in rows], next_cursor=next_cursor)
