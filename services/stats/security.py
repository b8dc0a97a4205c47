"""Statistics are for everybody with a key: a viewer's is enough."""

from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials

from services.platform.auth import Key
from services.platform.routes import bearer, caller

_bearer = bearer("An API key of any role, sent as `Authorization: Bearer <key>`.")


async def require_viewer(
    request: Request, _credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Key:
    """The caller's key; raises Unauthorized, Forbidden."""
    key = await caller(request, request.app.state.database)
    key.require("viewer")
    return key
