"""Statistics are for everybody with a key: a viewer's is enough, but a job's are only for a key that sees the job."""

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials

from services.engine.errors import NotFound
from services.engine.ownership import require_job
from services.platform.auth import Key
from services.platform.problems import not_found
from services.platform.routes import JobId, bearer, caller

_bearer = bearer("An API key of any role, sent as `Authorization: Bearer <key>`.")


async def require_viewer(
    request: Request, _credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Key:
    """The caller's key; raises Unauthorized, Forbidden."""
    key = await caller(request, request.app.state.database)
    key.require("viewer")
    return key


async def _readable(request: Request, job_id: JobId, key: Annotated[Key, Depends(require_viewer)]) -> None:
    """Raises a 404 unless the job is there for the caller."""
    try:
        await require_job(request.app.state.database, key, job_id)
    except NotFound as error:
        raise not_found("job", job_id) from error


of_readable_job = [Depends(_readable)]
