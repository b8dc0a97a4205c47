"""Statistics are for everybody with a key: a viewer's is enough."""

from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from services.platform.auth import Key, authenticate

_bearer = HTTPBearer(
    scheme_name="api_key",
    auto_error=False,
    description="An API key of any role, sent as `Authorization: Bearer <key>`.",
)


async def require_viewer(
    request: Request, _credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Key:
    """The caller's key; raises Unauthorized, Forbidden."""
    key = await authenticate(request.app.state.database, request.headers.get("authorization"))
    request.state.key_name = key.name
    key.require("viewer")
    return key
