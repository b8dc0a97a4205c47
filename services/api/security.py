"""Permissions: every route under /v1 names the lowest role that it needs. Whose things a caller may read and control is
in services/engine/ownership.py; what a caller changes goes to the audit log."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Query, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, SecurityScopes

from services.api.connections import Api
from services.engine import audit, ownership
from services.engine.places import Reader
from services.platform.auth import Forbidden, Key
from services.platform.database import Connection, Database
from services.platform.routes import bearer, caller

_bearer = bearer("An API key, sent as `Authorization: Bearer <key>`. Roles: viewer < submitter < developer < operator.")

# What the audit log calls the things under a path.
KINDS = {
    "jobs": "job",
    "splits": "input",
    "schedules": "schedule",
    "triggers": "trigger",
    "uploads": "upload",
    "processors": "processor",
    "packages": "package",
    "pools": "pool",
    "workers": "worker",
    "webhook-endpoints": "webhook endpoint",
    "webhook-deliveries": "webhook delivery",
    "alerts": "alert",
    "api-keys": "API key",
    "shares": "share",
    "retention-rules": "retention rule",
}


@dataclass(frozen=True, slots=True)
class Caller(Key):
    """The key of a request, and what the audit log says of the request."""

    action: str = ""
    kind: str = ""
    address: str | None = None
    request_id: str | None = None

    async def record(
        self, connection: Connection | Database, subject: object, outcome: audit.Outcome = "done", **summary: Any
    ) -> None:
        """Write to the audit log what this request changes, in the transaction of the change."""
        actor = audit.Actor(self.role, self.principal, self.key_id, self.address, self.request_id)
        await audit.record(connection, actor, self.action, self.kind, subject, summary, outcome)

    @property
    def reader(self) -> Reader:
        """For whom its jobs read."""
        return Reader(self.principal, self.key_id)

    async def require_control_of_job(self, connection: Connection, job_id: UUID) -> None:
        """Raises NotFound, Forbidden."""
        ownership.require_control(self, await ownership.find_job(connection, job_id))


def _asking(request: Request, key: Key) -> Caller:
    """The caller, from where uvicorn says that the request comes: behind a proxy, as `--forwarded-allow-ips` tells."""
    things = request.url.path.partition("/v1/")[2].partition("/")[0]
    return Caller(
        **{each.name: getattr(key, each.name) for each in fields(key)},
        action=request.scope["route"].operation_id,
        kind=KINDS.get(things, things),
        address=request.client.host if request.client else None,
        request_id=request.state.request_id,
    )


async def _authorized(
    request: Request,
    roles: SecurityScopes,
    api: Api,
    _credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    """The caller. Raises Unauthorized, Forbidden. OpenAPI shows the role as the route's scope."""
    asking = _asking(request, await caller(request, api.database))
    request.state.caller = asking
    for role in roles.scopes:
        asking.require(role)  # type: ignore[arg-type]
    return asking


async def note_refusal(request: Request, refused: Forbidden) -> None:
    """Write a refused change to the audit log; what was only to be read is not there."""
    asking: Caller | None = getattr(request.state, "caller", None)
    if asking is None or request.method == "GET":
        return
    subject = next(iter(request.path_params.values()), None)
    database: Database = request.app.state.connections.database
    await asking.record(database, subject, "refused", reason=str(refused))


def scope_filter(key: Key, share: Any, labels: Any) -> list[Any]:
    """Conditions on columns (of SQLAlchemy): only rows in the scope of the key. The SQL of `ownership.may_read`."""
    conditions = [share.in_(key.shares)] if key.shares else []
    return [*conditions, labels.contains(dict(key.labels))] if key.labels else conditions


@dataclass(frozen=True, slots=True)
class Owners:
    """Dependency: whose things a list is to have."""

    created_by: Annotated[str | None, Query(max_length=200, description="a principal: only what belongs to it")] = None
    mine: Annotated[bool, Query(description="only what belongs to the key's own principal")] = False

    def filter(self, caller: Key, column: Any) -> list[Any]:
        """Conditions on the column (of SQLAlchemy) that says whose a row is."""
        names = [*([] if self.created_by is None else [self.created_by]), *([caller.principal] if self.mine else [])]
        return [column == name for name in names]


OfOwners = Annotated[Owners, Depends()]


def describe_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """What is set, without what says nothing."""
    return {name: value for name, value in changes.items() if value not in (None, "", [], {})}


Viewer = Annotated[Caller, Security(_authorized, scopes=["viewer"])]
Submitter = Annotated[Caller, Security(_authorized, scopes=["submitter"])]
Developer = Annotated[Caller, Security(_authorized, scopes=["developer"])]
Operator = Annotated[Caller, Security(_authorized, scopes=["operator"])]
