"""Refuses requests with a body above the limit before any of it is stored."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.platform.problems import ProblemError, respond


class BodyLimit:
    """ASGI middleware: a body of more than `bytes_max` gets a 413 problem, whether announced or chunked."""

    def __init__(self, app: ASGIApp, bytes_max: int) -> None:
        self._app = app
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        fix = "upload data (create_upload; `piecework upload`)"
        detail = f"the body is larger than the limit of {self._bytes_max} bytes; {fix}"
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > self._bytes_max:
            response = respond(scope["path"], ProblemError(413, "body-too-large", detail))
            await response(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._bytes_max:
                raise ProblemError(413, "body-too-large", detail)
            return message

        await self._app(scope, counted, send)
