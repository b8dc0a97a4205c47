"""Permissions: every route under /v1 names the lowest role that it needs."""

from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, SecurityScopes

from services.api.connections import Api
from services.platform.auth import Key
from services.platform.routes import bearer, caller

_bearer = bearer("An API key, sent as `Authorization: Bearer <key>`. Roles: viewer < submitter < operator.")


async def _authorized(
    request: Request,
    roles: SecurityScopes,
    api: Api,
    _credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Key:
    """The caller's key. Raises Unauthorized, Forbidden. OpenAPI shows the role as the route's scope."""
    key = await caller(request, api.database)
    for role in roles.scopes:
        key.require(role)  # type: ignore[arg-type]
    return key


Viewer = Annotated[Key, Security(_authorized, scopes=["viewer"])]
Submitter = Annotated[Key, Security(_authorized, scopes=["submitter"])]
Operator = Annotated[Key, Security(_authorized, scopes=["operator"])]
