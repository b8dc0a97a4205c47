"""For load balancers and orchestrators: no key needed."""

from fastapi import APIRouter

from services.api.connections import Api
from services.engine.schema import check_ready
from services.platform.problems import problems
from services.platform.routes import Health

router = APIRouter(tags=["health"])


@router.get("/healthz", operation_id="healthz", summary="Is the process alive?")
async def healthz() -> Health:
    """Answers as long as the process does."""
    return Health()


@router.get("/readyz", operation_id="readyz", responses=problems(503), summary="Can it serve requests?")
async def readyz(api: Api) -> Health:
    """Answers within 2 seconds: 503 while the database is away or silent, no connection to it is free, or its schema is
    not one that this release works on."""
    await check_ready(api.database)
    return Health()
