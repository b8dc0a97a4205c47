"""Who may read and who may control what: one place for the API and the stats service.

A key without shares and labels reads everything. One with them sees only what has such a share and these labels; the
rest does not exist for it. What a submitter or developer may control is less: what its principal made, and what has one
of its key's shares; with `all`, everything that it sees. Operators control everything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from services.engine.errors import NotFound
from services.platform.auth import Forbidden, Key
from services.platform.database import Connection, Database


@dataclass(frozen=True, slots=True)
class Thing:
    """What somebody made. `created_by` is None of what was made before principals were known: it is nobody's.
    `share` is None of what has no share (an upload): a key with a scope sees it only if it is its own."""

    kind: str
    name: object
    created_by: str | None
    share: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def may_read(key: Key, thing: Thing) -> bool:
    """Whether the thing is in the scope of the key."""
    if not key.is_scoped:
        return True
    if thing.share is None:
        return thing.created_by == key.principal
    return (not key.shares or thing.share in key.shares) and all(
        thing.labels.get(name) == value for name, value in key.labels.items()
    )


def may_control(key: Key, thing: Thing) -> bool:
    """Whether the key may also change, stop or remove the thing."""
    if key.has_role("operator"):
        return True
    if not key.has_role("submitter") or not may_read(key, thing):
        return False
    return key.all or thing.created_by == key.principal or thing.share in key.shares


def require_read(key: Key, thing: Thing) -> None:
    """Raises NotFound: what is outside its scope does not exist for a key."""
    if not may_read(key, thing):
        raise NotFound(f"there is no {thing.kind} {thing.name}")


def require_control(key: Key, thing: Thing) -> None:
    """Raises NotFound, and Forbidden, which says whose it is."""
    require_read(key, thing)
    require_owner(key, thing)


def require_owner(key: Key, thing: Thing) -> None:
    """The same of a thing that everybody sees. Raises Forbidden."""
    if may_control(key, thing):
        return
    key.require("submitter")
    owner = "nobody: it was made before keys had owners" if thing.created_by is None else thing.created_by
    share = f" (share {thing.share})" if thing.share is not None else ""
    raise Forbidden(
        f"the {thing.kind} {thing.name}{share} belongs to {owner}, and the key {key.name!r} of {key.principal} only "
        "controls what is its own: ask the owner, or ask an operator for a key with this share or with `all`"
    )


# Of a job that was deleted, its results may be kept.
_JOB = """
    SELECT created_by, share, labels FROM jobs WHERE job_id = $1
    UNION ALL SELECT created_by, share, labels FROM deleted_jobs WHERE job_id = $1 AND result IS NOT NULL LIMIT 1"""


async def find_job(connection: Connection | Database, job_id: UUID) -> Thing:
    """Raises NotFound."""
    row = await connection.fetchrow(_JOB, job_id)
    if row is None:
        raise NotFound(f"there is no job {job_id}")
    return Thing("job", job_id, row["created_by"], row["share"], row["labels"])


async def require_job(connection: Connection | Database, key: Key, job_id: UUID) -> None:
    """Raises NotFound unless the job is there for this key, which costs nothing for a key that sees all."""
    if key.is_scoped:
        require_read(key, await find_job(connection, job_id))


def of_template(kind: str, name: object, created_by: str | None, job: Mapping[str, Any]) -> Thing:
    """A schedule or trigger, which is where its jobs will be."""
    labels = job.get("labels")
    share = job.get("share", "default")
    return Thing(kind, name, created_by, str(share), labels if isinstance(labels, dict) else {})
