"""The API, with its lifespan, over ASGI; clients with keys of each role."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI

from services.contract.resources import Capacity
from services.engine import transitions, workers
from services.engine.attempt import AttemptReport, ClaimedTask
from services.platform.auth import Role, hash_secret, new_secret
from services.platform.aws import Aws
from services.platform.database import Database, new_id
from services.platform.settings import Settings
from tests.apps import api_app
from tests.roles import as_role


@dataclass(frozen=True)
class Keys:
    """Makes API keys and clients that use them."""

    database: Database
    app: FastAPI

    async def secret(self, role: Role, **limits: Any) -> str:
        """A key of its own principal, unless `limits` (columns of api_keys) say otherwise."""
        secret = new_secret()
        row = {"key_id": new_id(), "name": f"test-{role}", "role": role, "key_hash": hash_secret(secret), "all": False}
        row |= limits
        names = ", ".join(f'"{name}"' for name in row)
        places = ", ".join(f"${n}" for n in range(1, len(row) + 1))
        await self.database.execute(f"INSERT INTO api_keys ({names}) VALUES ({places})", *row.values())
        return secret

    async def client(self, role: Role, **limits: Any) -> httpx.AsyncClient:
        return client_of(self.app, await self.secret(role, **limits))


def client_of(app: FastAPI, secret: str | None = None) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers)


@pytest.fixture
async def app(settings: Settings, aws: Aws) -> AsyncIterator[FastAPI]:
    app = api_app(settings.model_copy(update={"database_url": as_role(settings.database_url, "api")}))
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def keys(app: FastAPI, database: Database) -> Keys:
    return Keys(database, app)


@pytest.fixture
async def operator(keys: Keys) -> AsyncIterator[httpx.AsyncClient]:
    async with await keys.client("operator") as client:
        yield client


@pytest.fixture
async def submitter(keys: Keys) -> AsyncIterator[httpx.AsyncClient]:
    async with await keys.client("submitter") as client:
        yield client


@pytest.fixture
async def viewer(keys: Keys) -> AsyncIterator[httpx.AsyncClient]:
    async with await keys.client("viewer") as client:
        yield client


@pytest.fixture
async def grid(operator: httpx.AsyncClient) -> None:
    """A pool `default` and a processor `noop`: what a job needs to be submitted."""
    await ok(operator.put("/v1/pools/default", json={}))
    await ok(operator.post("/v1/processors", json={"name": "noop", "builtin": "noop"}))


async def ok(request: Any) -> Any:
    """The JSON of a successful answer."""
    response = await request
    assert response.is_success, response.text
    return response.json() if response.content else None


def array_job(**changes: Any) -> dict[str, Any]:
    return {"input": {"type": "range", "count": 3}, "stages": [{"processor": "noop"}]} | changes


class PlayedWorker:
    """Plays the scheduler and a worker: the rows that their transitions leave behind."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.worker_id = new_id()

    async def register(self, *, pool: str = "default", busy: int = 0, capacity: Capacity | None = None) -> UUID:
        node = {"hostname": "node-1", "instance_id": None, "pid": 1, "slots": 4, "capacity": capacity}
        await workers.register_worker(self._database, worker_id=self.worker_id, pool=pool, **node)
        await workers.heartbeat(self._database, self.worker_id, busy)
        return self.worker_id

    async def plan(self, job_id: UUID, count: int, stage: int = 0) -> None:
        """The split is done: the stage has `count` tasks."""
        async with self._database.acquire() as connection, connection.transaction():
            await transitions.plan_same_tasks(connection, job_id, stage, 0, {"type": "index", "count": count}, count)
            await connection.execute(
                "UPDATE stages SET planned = true, task_count = $3 WHERE job_id = $1 AND stage = $2",
                job_id,
                stage,
                count,
            )

    async def claim(self, job_id: UUID, tasks: int, stage: int = 0) -> list[ClaimedTask]:
        """Up to `tasks` ready tasks are dispatched, and run by the worker."""
        async with self._database.acquire() as connection:
            messages = await transitions.dispatch(
                connection, job_id, stage, pool="default", tasks_max=tasks, bundle_tasks_max=1, resend_seconds=60
            )
        return await transitions.claim(self._database, self.worker_id, [message.bundle_id for message in messages])

    async def finish(self, task: ClaimedTask, outcome: str = "succeeded", **facts: Any) -> None:
        finished = AttemptReport(task.job_id, task.stage, task.index, task.attempt, outcome, run_seconds=0.5, **facts)
        assert await transitions.complete(self._database, self.worker_id, [finished], [task.bundle_id]) == 1


@pytest.fixture
async def worker(database: Database, grid: None) -> PlayedWorker:
    played = PlayedWorker(database)
    await played.register()
    return played
