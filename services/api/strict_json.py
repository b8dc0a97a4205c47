"""Reads request bodies as strict JSON: without NaN, Infinity and lone surrogates, and not nested too deeply."""

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute

from services.api.security import note_refusal
from services.platform.auth import Forbidden
from services.platform.problems import ProblemError

DEPTH_MAX = 100  # pydantic gives up at about 250


class _StrictRequest(Request):
    async def json(self) -> Any:
        """Raises json.JSONDecodeError, and a 400 for a body nested too deeply."""
        if not hasattr(self, "_json"):
            self._json = orjson.loads(await self.body())
            _check_depth(self._json)
        return self._json


def _check_depth(body: Any) -> None:
    level = [body]
    for _ in range(DEPTH_MAX):
        nested = [value for value in level if isinstance(value, dict | list)]
        level = [child for value in nested for child in (value.values() if isinstance(value, dict) else value)]
        if not level:
            return
    raise ProblemError(400, "malformed-json", f"the body is nested deeper than {DEPTH_MAX} levels; flatten it")


class StrictRoute(APIRoute):
    """A route that parses its body with orjson, and writes a change that it refuses to the audit log."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            try:
                return await handle(_StrictRequest(request.scope, request.receive))
            except Forbidden as refused:
                await note_refusal(request, refused)
                raise

        return strict
