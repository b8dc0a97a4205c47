"""The stats service: `uvicorn services.stats.main:app`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from services.engine.schema import wait_for_schema
from services.platform.access_log import AccessLog
from services.platform.database import Database, connect_database
from services.platform.health import DATABASE_AWAITED, VITALS, beating
from services.platform.logs import configure_logs
from services.platform.problems import install_problems
from services.platform.process import hide_environment
from services.platform.rates import Rates
from services.platform.security_headers import SecurityHeaders
from services.platform.server import let_servers_rest
from services.platform.settings import Settings, read_settings
from services.platform.tracing import configure_tracing
from services.platform.version import VERSION
from services.stats.rollup import keep_rolled_up
from services.stats.routes import stats, watch


async def _roll_up(database: Database) -> None:
    await wait_for_schema(database)
    VITALS.waits_for = None
    await keep_rolled_up(database)


def create_app(settings: Settings) -> FastAPI:
    """The application; its roll-up runs in the background for as long as it serves."""
    configure_logs("stats", settings.log_level)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.settings = settings
        app.state.database = await connect_database(
            settings, settings.database_connections_max, seconds=settings.database_seconds
        )
        VITALS.waits_for = DATABASE_AWAITED
        rolling = asyncio.create_task(_roll_up(app.state.database))
        async with beating(settings):
            yield
        rolling.cancel()
        with suppress(asyncio.CancelledError):
            await rolling
        VITALS.forget("roll-up")
        await app.state.database.close()

    app: FastAPI = FastAPIOffline(
        title="Piecework statistics",
        version=VERSION,
        description="How jobs, workers and pools do. Every figure is rolled up as attempts end; reading one is cheap.",
        lifespan=lifespan,
        swagger_ui_parameters={"displayRequestDuration": True},  # a key is not kept in the browser
    )
    app.state.rates = Rates(settings.requests_per_second, settings.failures_per_second)
    install_problems(app)
    app.add_middleware(AccessLog)
    app.add_middleware(SecurityHeaders)
    app.include_router(stats)
    app.include_router(watch)
    return app


@cache
def _served() -> FastAPI:
    settings = read_settings(Settings)
    hide_environment()
    let_servers_rest()
    configure_tracing("stats")
    return create_app(settings)


def __getattr__(name: str) -> FastAPI:
    """Makes `app` when a server asks for it, so that importing the module needs no configuration."""
    if name == "app":
        return _served()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
