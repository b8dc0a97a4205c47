"""Headers with which browsers keep answers to themselves (https://owasp.org/www-project-secure-headers/)."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PAGES = ("/docs", "/redoc")
_FRAMED_BY_NONE = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_DATA = f"default-src 'none'; {_FRAMED_BY_NONE}"
# The pages of the documentation hold a script and styles of their own; all else of theirs comes from this service.
_PAGE = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    f"font-src 'self'; connect-src 'self'; worker-src 'self' blob:; {_FRAMED_BY_NONE}"
)


class SecurityHeaders:
    """ASGI middleware. HTTPS, and Strict-Transport-Security with it, are the matter of the proxy in front."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "no-referrer"
                headers["x-frame-options"] = "DENY"
                headers["content-security-policy"] = _PAGE if scope["path"].startswith(_PAGES) else _DATA
            await send(message)

        await self._app(scope, receive, guarded)
