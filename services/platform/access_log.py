"""One JSON line, one span and one observation for each request, and its id."""

import re
import time
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.platform import tracing
from services.platform.metrics import REQUEST_SECONDS

log = structlog.get_logger()

REQUEST_ID = re.compile(r"[!-~]{1,200}")  # visible ASCII

_PREFIX = "/v1"
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_PROBES = frozenset(("/healthz", "/readyz", "/metrics"))


class AccessLog:
    """ASGI middleware; the key's name is what `security` left in the request's state.

    A request's id is that of its X-Request-ID, if it has a good one, or a new one. It is in the answer's header, in
    problems, and in each log line until the request ends.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500
        state, headers = scope.setdefault("state", {}), Headers(scope=scope)
        state["request_id"] = request_id = _request_id(headers.get("x-request-id"))
        parent = tracing.valid_traceparent(headers.get("traceparent"))
        is_probe = scope["path"] in _PROBES

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            tracing.span(
                scope["method"], parent, kind="server", root=True, recorded=not is_probe, request_id=request_id
            ) as span,
        ):
            try:
                await self._app(scope, receive, watched)
            finally:
                seconds, route = time.perf_counter() - started, _route(scope)
                method = scope["method"] if scope["method"] in _METHODS else "other"
                REQUEST_SECONDS.labels(method, route, status).observe(seconds)
                span.rename(f"{method} {route}")
                span.set(status=status, key=state.get("key_name"))
                if status >= 500:
                    span.fail(f"answered {status}")
                write = log.debug if is_probe and status < 400 else log.info
                write(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    ms=round(seconds * 1000, 1),
                    key=state.get("key_name"),
                )


def _request_id(given: str | None) -> str:
    return given if given is not None and REQUEST_ID.fullmatch(given) else str(uuid4())


def _route(scope: Scope) -> str:
    """The route's template: a raw path would be a label of its own for each job.

    FastAPI tells it without the prefix that a router was included with.
    """
    path: str | None = getattr(scope.get("route"), "path", None)
    if path is None:
        return "none"
    return _PREFIX + path if scope["path"].startswith(_PREFIX) and not path.startswith(_PREFIX) else path
