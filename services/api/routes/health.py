"""For load balancers and orchestrators: no key needed."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from services.api.connections import Api
from services.platform.problems import problems

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The service can do its work."""

    status: Literal["ok"] = "ok"


@router.get("/healthz", operation_id="healthz", summary="Is the process alive?")
async def healthz() -> Health:
    """Answers as long as the process does."""
    return Health()


@router.get("/readyz", operation_id="readyz", responses=problems(503), summary="Can it serve requests?")
async def readyz(api: Api) -> Health:
    """Answers 503 while the database is away or not migrated."""
    await api.database.fetchval("SELECT EXISTS (SELECT FROM pools)")
    return Health()
