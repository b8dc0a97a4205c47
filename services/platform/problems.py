"""Errors of an HTTP service as RFC 9457 problems: every error answer has this one shape."""

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

import asyncpg
import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.platform.auth import Forbidden, Unauthorized
from services.platform.database import UNMIGRATED, UNREADY, UnknownSchema
from services.platform.rates import TooManyRequests

MEDIA_TYPE = "application/problem+json"
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}  # RFC 9110's; those of Python depend on its version
VALUE_CHARACTERS_MAX = 200
RETRY_AFTER_SECONDS = 2

log = structlog.get_logger()


class FieldError(BaseModel):
    """One bad field of a request."""

    field: str = Field(description="path in the body, or the parameter's name", examples=["stages.0.processor"])
    value: Any = Field(None, description="what was sent, shortened")
    message: str = Field(description="what is wrong, and the fix")


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="a URI that names the kind of problem", examples=["urn:piecework:not-found"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["there is no job 01970000-0000-7000-8000-000000000000"])
    instance: str = Field(description="the path of the request", examples=["/v1/jobs"])
    errors: list[FieldError] | None = Field(None, description="the bad fields, when fields are to blame")
    request_id: str | None = Field(
        None, description="the answer's X-Request-ID, by which the service's log is searched"
    )


def _title(status: int) -> str:
    return _TITLES.get(status) or HTTPStatus(status).phrase


class ProblemError(HTTPException):
    """Raise it to answer with a problem; `kind` is the last part of the problem's type.

    An HTTPException, so that FastAPI lets it pass while it reads a body.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        errors: Sequence[FieldError] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, headers)
        self.kind = kind
        self.errors = errors


def invalid(field: str, value: Any, message: str) -> ProblemError:
    """A 422 that blames one field."""
    return _invalid([FieldError(field=field, value=_shorten(value), message=message)])


def not_found(what: str, name: object) -> ProblemError:
    return ProblemError(404, "not-found", f"there is no {what} {name}")


def conflict(detail: str) -> ProblemError:
    return ProblemError(409, "conflict", detail)


def unavailable(what: str, error: BaseException) -> ProblemError:
    """A 503: `what` can't be reached, and the same request may be sent again."""
    log.warning(f"{what} unavailable", error=repr(error))
    detail = f"{what} can't be reached at the moment; send the same request again"
    return ProblemError(503, "unavailable", detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def _unmigrated(error: BaseException) -> ProblemError:
    """A 503 until a migration runs. The cause may also be a bug of ours, so the log has the details."""
    if isinstance(error, UnknownSchema):
        detail = str(error)
    else:
        log.error("the schema lacks what this release needs", exc_info=error)
        detail = "the database's schema is not the one that this release needs; /readyz says more"
    return ProblemError(503, "unknown-schema", detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def _invalid(errors: Sequence[FieldError]) -> ProblemError:
    detail = "; ".join(f"{error.field}: {error.message}" for error in errors[:3])
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    return ProblemError(422, "invalid-request", detail + more, errors)


def _shorten(value: Any) -> Any:
    """`value` if its JSON is short, otherwise the start of its JSON."""
    text = orjson.dumps(value, default=str).decode()
    return value if len(text) <= VALUE_CHARACTERS_MAX else text[:VALUE_CHARACTERS_MAX] + "…"


def field_path(location: Sequence[str | int], body: Any) -> str:
    """The dotted path of a pydantic error, without `body` and without the tags that pick a member of a union."""
    source, *steps = location
    if source != "body":
        return ".".join(str(step) for step in steps) or str(source)
    path: list[str] = []
    value, tagged = body, False
    for step in steps:
        if isinstance(value, dict) and value.get("type") == step and not tagged and path:
            tagged = True
            continue
        if step == "[key]" or str(step).startswith("("):
            continue
        path.append(str(step))
        tagged = False
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            value = None
    return ".".join(path) or "body"


def _field_error(error: dict[str, Any], body: Any) -> FieldError:
    field, message = field_path(error["loc"], body), error["msg"].removeprefix("Value error, ")
    match error["type"]:
        case "missing":
            return FieldError(field=field, message="this field is required")
        case "extra_forbidden":
            message = "there is no such field; check its spelling or remove it"
        case "union_tag_invalid" | "union_tag_not_found":
            tags = error["ctx"].get("expected_tags", "")
            message = f"write one of the known types: {tags}" if tags else "this field is required"
            tag = error["input"].get("type") if isinstance(error["input"], dict) else error["input"]
            return FieldError(field=f"{field}.type", value=_shorten(tag), message=message)
    return FieldError(field=field, value=_shorten(error.get("input")), message=message)


def _validation(request: Request, error: RequestValidationError) -> ProblemError:
    errors = error.errors()
    if errors[0]["type"] == "json_invalid":
        place = errors[0]["loc"][-1]
        return ProblemError(400, "malformed-json", f"the body is not JSON: {errors[0]['ctx']['error']} at byte {place}")
    if isinstance(error.body, bytes):
        content_type = request.headers.get("content-type", "none")
        return ProblemError(415, "unsupported-media-type", f"send Content-Type: application/json, not {content_type}")
    return _invalid([_field_error(each, error.body) for each in errors])


def _http(request: Request, error: HTTPException) -> ProblemError:
    details = {
        404: f"there is no {request.url.path}; /docs lists the routes",
        405: f"{request.url.path} does not take {request.method}",
    }
    kind = _title(error.status_code).lower().replace(" ", "-")
    detail = details.get(error.status_code, str(error.detail))
    return ProblemError(error.status_code, kind, detail, headers=dict(error.headers or {}))


def describe(request: Request, error: BaseException) -> ProblemError:
    """The problem that tells a client of `error`; a service matches its own exceptions first."""
    match error:
        case ProblemError():
            return error
        case RequestValidationError():
            return _validation(request, error)
        case HTTPException():
            return _http(request, error)
        case Unauthorized():
            return ProblemError(401, "unauthorized", str(error), headers={"WWW-Authenticate": "Bearer"})
        case Forbidden():
            return ProblemError(403, "forbidden", str(error))
        case TooManyRequests():
            return ProblemError(429, "too-many-requests", str(error), headers=error.headers)
        case asyncpg.UntranslatableCharacterError() | asyncpg.CharacterNotInRepertoireError():
            return ProblemError(422, "invalid-request", "a text holds the NUL character (\\u0000); remove it")
        case _ if isinstance(error, UNMIGRATED):
            return _unmigrated(error)
        case _ if isinstance(error, UNREADY) and not isinstance(error, ValueError):  # that is a bad argument of ours
            return unavailable("the database", error)
    log.error("unexpected error", method=request.method, path=request.url.path, exc_info=error)
    return ProblemError(500, "internal-error", "this is a bug in the service; its log says more")


Describe = Callable[[Request, BaseException], ProblemError]


def respond(path: str, error: ProblemError) -> Response:
    """The answer to a request of `path`."""
    problem = Problem(
        type=f"urn:piecework:{error.kind}",
        title=_title(error.status_code),
        status=error.status_code,
        detail=error.detail,
        instance=path,
        errors=list(error.errors) if error.errors else None,
        request_id=structlog.contextvars.get_contextvars().get("request_id"),
    )
    return Response(
        problem.model_dump_json(exclude={name for name in ("errors", "request_id") if getattr(problem, name) is None}),
        error.status_code,
        error.headers,
        MEDIA_TYPE,
    )


class _Answering:
    """ASGI middleware: an exception that no handler takes is answered here, instead of raised into the server."""

    def __init__(self, app: ASGIApp, describe: Describe) -> None:
        self._app = app
        self._describe = describe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if scope["type"] != "http" or started:
                raise
            await respond(scope["path"], self._describe(Request(scope), error))(scope, receive, send)


def _declare_media_type(app: FastAPI) -> None:
    """Let OpenAPI give errors the media type that they have."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            for path in generate()["paths"].values():
                for operation in path.values():
                    for status, response in operation["responses"].items():
                        if status >= "400":
                            response["content"] = {MEDIA_TYPE: response["content"]["application/json"]}
        return generate()

    app.openapi = openapi  # type: ignore[method-assign]


def install_problems(app: FastAPI, describe: Describe = describe) -> None:
    """Make `app` answer every error with the problem that `describe` gives."""

    async def answer(request: Request, error: Exception) -> Response:
        return respond(request.url.path, describe(request, error))

    app.add_exception_handler(RequestValidationError, answer)
    app.add_exception_handler(HTTPException, answer)
    app.add_middleware(_Answering, describe=describe)
    _declare_media_type(app)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` of a route: the problems it may answer with."""
    return {status: {"description": _title(status), "model": Problem} for status in statuses}
