"""The API service: `uvicorn services.api.main:app`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache

import structlog
from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline

from services.api.aws_watch import look_at_aws
from services.api.body_limit import BodyLimit
from services.api.connections import Connections, connect
from services.api.problems import describe
from services.api.routes import (
    alerts,
    api_keys,
    audit,
    failures,
    health,
    items,
    jobs,
    packages,
    pools,
    processors,
    quotas,
    results,
    retention_rules,
    schedules,
    splits,
    tasks,
    trials,
    triggers,
    uploads,
    webhooks,
    workers,
)
from services.engine.schema import wait_for_schema
from services.platform.access_log import AccessLog
from services.platform.auth import has_keys, register_bootstrap_key
from services.platform.aws import require_region
from services.platform.concurrency import is_cancelled
from services.platform.database import ENDS_CHANNEL, UNREADY
from services.platform.health import DATABASE_AWAITED, VITALS, beating
from services.platform.logs import configure_logs
from services.platform.notifications import listen
from services.platform.problems import install_problems, problems
from services.platform.process import hide_environment
from services.platform.rates import Rates
from services.platform.secret_values import Unresolved, resolve_own
from services.platform.security_headers import SecurityHeaders
from services.platform.server import let_servers_rest
from services.platform.settings import ApiSettings, read_settings
from services.platform.tracing import configure_tracing
from services.platform.version import VERSION

DESCRIPTION = """
Piecework takes a large job, splits it, runs the parts on a grid of workers and merges their results.

1. Press **Authorize** and give an API key.
2. `register_processor` adds code to run, `create_upload` uploads data, `submit_job` starts a job.
3. `get_job` shows its progress, `get_results` gives links to its results.

Errors are problems (RFC 9457) that name the field, the value and the fix. Lists come in pages: send `next_cursor` as
`cursor`. A creating POST with an `Idempotency-Key` can be sent again safely for a day.
"""

TAGS = [
    {"name": "jobs", "description": jobs.__doc__},
    {"name": "tasks", "description": tasks.__doc__},
    {"name": "results", "description": results.__doc__},
    {"name": "schedules", "description": schedules.__doc__},
    {"name": "triggers", "description": triggers.__doc__},
    {"name": "uploads", "description": uploads.__doc__},
    {"name": "processors", "description": processors.__doc__},
    {"name": "pools", "description": pools.__doc__},
    {"name": "workers", "description": workers.__doc__},
    {"name": "alerts", "description": alerts.__doc__},
    {"name": "webhooks", "description": webhooks.__doc__},
    {"name": "API keys", "description": api_keys.__doc__},
    {"name": "audit", "description": audit.__doc__},
    {"name": "quotas", "description": quotas.__doc__},
    {"name": "retention", "description": retention_rules.__doc__},
    {"name": "health", "description": health.__doc__},
]

BOOTSTRAP_RETRY_SECONDS = 1.0

log = structlog.get_logger()


async def _begin(connections: Connections, settings: ApiSettings) -> None:
    """Wait for the database and its schema; then register the bootstrap key, if there is one."""
    while not is_cancelled():
        await wait_for_schema(connections.database)
        VITALS.waits_for = None
        try:
            key = await _bootstrap_key(connections, settings)
            if key and await register_bootstrap_key(connections.database, key):
                log.info("bootstrap key registered")
            return
        except Unresolved as error:
            log.warning("the bootstrap key can't be read", source=settings.bootstrap_api_key_from, error=str(error))
        except UNREADY:
            pass
        await asyncio.sleep(BOOTSTRAP_RETRY_SECONDS)


async def _listen(connections: Connections) -> None:
    settings, ends = connections.settings, connections.ends
    await listen(settings, settings.database_seconds, [ENDS_CHANNEL], ends.notified, ends.heard)


async def _bootstrap_key(connections: Connections, settings: ApiSettings) -> str | None:
    """Its source is asked only for a grid without any key: later it may be gone. Raises Unresolved."""
    if settings.bootstrap_api_key_from is None or await has_keys(connections.database):
        return settings.bootstrap_api_key
    return await resolve_own(settings.bootstrap_api_key_from, settings)


def create_app(settings: ApiSettings) -> FastAPI:
    """The application; its lifespan opens and closes all connections."""
    configure_logs("api", settings.log_level)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        settings: ApiSettings = app.state.settings
        VITALS.waits_for = DATABASE_AWAITED
        async with beating(settings), connect(settings) as connections:
            app.state.connections = connections
            app.state.rates = Rates(settings.requests_per_second, settings.failures_per_second)
            beginning = asyncio.create_task(_begin(connections, settings))
            looking = asyncio.create_task(look_at_aws(connections))
            listening = asyncio.create_task(_listen(connections))
            yield
            for task in (beginning, looking, listening):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    app = FastAPIOffline(
        title="Piecework",
        version=VERSION,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        lifespan=lifespan,
        swagger_ui_parameters={"displayRequestDuration": True},  # a key is not kept in the browser
    )
    app.state.settings = settings
    app.add_middleware(BodyLimit, bytes_max=settings.body_bytes_max)
    install_problems(app, describe)
    app.add_middleware(AccessLog)
    app.add_middleware(SecurityHeaders)
    v1 = APIRouter(prefix="/v1", responses=problems(401, 403, 422, 429, 500, 503))
    for resource in (
        jobs,
        items,
        splits,
        failures,
        tasks,
        trials,
        results,
        schedules,
        triggers,
        uploads,
        processors,
        packages,
        pools,
        workers,
        webhooks,
        alerts,
        api_keys,
        audit,
        quotas,
        retention_rules,
    ):
        v1.include_router(resource.router)
    app.include_router(v1)
    app.include_router(health.router)
    return app


@cache
def _served() -> FastAPI:
    settings = read_settings(ApiSettings)
    hide_environment()
    let_servers_rest()
    configure_tracing("api")
    require_region()
    return create_app(settings)


def __getattr__(name: str) -> FastAPI:
    """Makes `app` when a server asks for it, so that importing the module needs no configuration."""
    if name == "app":
        return _served()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
