"""The nodes that run tasks."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from sqlmodel import col, select

from services.api import tables
from services.api.connections import Api, Session
from services.api.pagination import Pages
from services.api.security import Operator, Viewer
from services.api.shapes.grid import Worker, WorkerPage
from services.api.strict_json import StrictRoute
from services.contract.states import WorkerState
from services.engine import workers
from services.platform.database import Connection
from services.platform.database import Database as ConnectionPool
from services.platform.problems import not_found, problems

router = APIRouter(prefix="/workers", tags=["workers"], route_class=StrictRoute)

WorkerId = Annotated[UUID, Path(examples=["01970000-0000-7000-8000-000000000000"])]


async def _load(connection: Connection | ConnectionPool, worker_id: UUID) -> Worker:
    """Raises a 404."""
    row = await connection.fetchrow("SELECT * FROM workers WHERE worker_id = $1", worker_id)
    if row is None:
        raise not_found("worker", worker_id)
    return Worker.model_validate(dict(row))


@router.get("", operation_id="list_workers", summary="List workers")
async def list_workers(
    _key: Viewer,
    session: Session,
    pages: Pages,
    pool: Annotated[str | None, Query(max_length=100)] = None,
    state: Annotated[list[WorkerState], Query(description="any of these states", max_length=100)] = [],  # noqa: B006
) -> WorkerPage:
    """Workers, newest first; those that stopped or were lost are kept for some days."""
    worker = tables.Worker
    statement = select(worker)
    if pool is not None:
        statement = statement.where(worker.pool == pool)
    if state:
        statement = statement.where(col(worker.state).in_(state))
    rows, next_cursor = await pages.fetch(session, statement, worker.worker_id, newest_first=True)
    return WorkerPage(items=[Worker.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.get("/{worker_id}", operation_id="get_worker", responses=problems(404), summary="Inspect a worker")
async def get_worker(_key: Viewer, api: Api, worker_id: WorkerId) -> Worker:
    """One run of a worker node."""
    return await _load(api.database, worker_id)


@router.post("/{worker_id}/drain", operation_id="drain_worker", responses=problems(404, 409), summary="Drain a worker")
async def drain_worker(caller: Operator, api: Api, worker_id: WorkerId) -> Worker:
    """Drain a worker: from its next heartbeat on, it takes no more tasks, ends its running ones, and stops."""
    async with api.transaction() as connection:
        await workers.drain_worker(connection, worker_id, "an operator drained it")
        await caller.record(connection, worker_id)
        return await _load(connection, worker_id)
