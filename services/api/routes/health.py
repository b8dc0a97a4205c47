"""For load balancers and orchestrators: no key needed."""

from fastapi import APIRouter, Request, Response

from services.api.connections import Api
from services.engine.schema import check_ready
from services.platform.health import VITALS
from services.platform.problems import problems
from services.platform.routes import Health, metrics_response

router = APIRouter(tags=["health"])


@router.get("/healthz", operation_id="healthz", response_model_exclude_none=True, summary="Is the process alive?")
async def healthz() -> Health:
    """Answers as long as the process does."""
    return Health()


@router.get(
    "/readyz",
    operation_id="readyz",
    response_model_exclude_none=True,
    responses=problems(503),
    summary="Can it serve requests?",
)
async def readyz(api: Api) -> Health:
    """Answers within 2 seconds: 503 while the database is away or silent, no connection to it is free, or its schema is
    not one that this release works on.

    Most requests need neither S3 nor SQS: if one of them can't be reached, the answer is 200 and has `warnings`.
    """
    await check_ready(api.database)
    return Health(warnings=VITALS.ill() or None)


@router.get("/metrics", include_in_schema=False)  # text, for Prometheus
async def metrics(request: Request, api: Api) -> Response:
    """Those of this process: requests by route, connections, memory. The stats service has those of the grid."""
    return metrics_response(request, api.settings.metrics_key)
