"""The audit log: who changed what, when and from where, written in the transaction of the change. Append only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from services.platform.database import JOBS_CHANNEL, Connection, Database, new_id

Outcome = Literal["done", "refused"]

_RECORD = """
    INSERT INTO audit_log (audit_id, key_id, principal, role, action, outcome, subject_kind, subject, summary, address,
        request_id)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
    RETURNING CASE WHEN $6 = 'done' THEN pg_notify($12, '') END"""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks: a key of a principal, or the scheduler for the owner of a schedule or trigger (which has no key)."""

    role: str
    principal: str | None
    key_id: UUID | None = None
    address: str | None = None
    request_id: str | None = None


async def record(
    connection: Connection | Database,
    actor: Actor,
    action: str,
    kind: str,
    subject: object,
    summary: Mapping[str, Any],
    outcome: Outcome = "done",
) -> None:
    """Add an entry: `action` is an operation of the API, `summary` says what was changed and holds no secret.

    Schedulers hear of each change, since any of their loops may have to act on it.
    """
    await connection.execute(
        _RECORD,
        new_id(),
        actor.key_id,
        actor.principal,
        actor.role,
        action,
        outcome,
        kind,
        None if subject is None else str(subject),
        dict(summary),
        actor.address,
        actor.request_id,
        JOBS_CHANNEL,
    )


async def record_submission(connection: Connection, owner: str | None, job_id: UUID, **summary: Any) -> None:
    """A job that the scheduler submits for the owner of a schedule or trigger, which `summary` names."""
    await record(connection, Actor("scheduler", owner), "submit_job", "job", job_id, summary)
