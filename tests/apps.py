"""The application of the API, built once for all tests: that costs more than most of them."""

from functools import cache

from fastapi import FastAPI

from services.api.main import create_app
from services.platform.logs import configure_logs
from services.platform.settings import ApiSettings


def api_app(settings: ApiSettings) -> FastAPI:
    """The application with these settings, once its lifespan begins. One test at a time can use it."""
    configure_logs("api", settings.log_level)
    app = _built()
    app.state.settings = settings
    return app


@cache
def _built() -> FastAPI:
    return create_app(ApiSettings())
