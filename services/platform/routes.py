"""What the routes of both HTTP services share: a job's id, the caller's key, health, metrics."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import Path, Request, Response
from fastapi.security import HTTPBearer
from prometheus_client.registry import Collector
from pydantic import BaseModel, Field

from services.platform.auth import Key, Unauthorized, authenticate, require_bearer
from services.platform.database import Database
from services.platform.metrics import expose
from services.platform.rates import Rates
from services.platform.version import VERSION

JobId = Annotated[UUID, Path(examples=["01970000-0000-7000-8000-000000000000"])]


class Health(BaseModel):
    """The service can do its work."""

    status: Literal["ok"] = "ok"
    version: str = Field(VERSION, description="the release that the service runs")
    warnings: list[str] | None = Field(
        None, description="what does not work, although the service answers: S3 or SQS can't be reached, for example"
    )


def metrics_response(request: Request, metrics_key: str | None, further: Collector | None = None) -> Response:
    """What Prometheus scrapes: the process's metrics, and `further` ones. Raises Unauthorized."""
    if metrics_key is not None:
        require_bearer(request.headers.get("authorization"), metrics_key)
    body, content_type = expose(request.headers.get("accept", ""), further)
    return Response(body, media_type=content_type)


def bearer(description: str) -> HTTPBearer:
    """OpenAPI's security scheme of an API key. It refuses nothing: `caller` does, with a problem."""
    return HTTPBearer(scheme_name="api_key", auto_error=False, description=description)


async def caller(request: Request, database: Database) -> Key:
    """The key that the request carries, named in the access log. Raises Unauthorized, TooManyRequests."""
    rates: Rates = request.app.state.rates
    address = request.client.host if request.client else ""
    authorization = request.headers.get("authorization")
    rates.admit(address, authorization)
    try:
        key = await authenticate(database, authorization)
    except Unauthorized:
        rates.fail(address, authorization)
        raise
    request.state.key_name = key.name
    await rates.count(database, key.key_id, authorization)
    return key
