"""What can go wrong, as a tree: catch `PieceworkError` for all of it."""

from typing import Any, TypedDict


class PieceworkError(Exception):
    """Anything this client raises by itself."""

    def lines(self) -> list[str]:
        """The error for people, one line for each thing that is wrong."""
        return [str(self)]


class InputError(PieceworkError, ValueError):
    """Bad input, seen before any request was made: a file, an option, a setting."""


class TransportError(PieceworkError):
    """No usable answer: the service can't be reached, hung up, or isn't what it should be."""


class TransferError(PieceworkError):
    """An object could not be uploaded or downloaded."""


class FieldError(TypedDict):
    """One wrong field of a request; `field` is a path such as `stages.0.processor`."""

    field: str
    value: Any
    message: str


class ApiError(PieceworkError):
    """The service answered with a problem (RFC 9457). `retry_after`: seconds after which to ask again, if told."""

    retry_after: float | None = None

    def __init__(self, status: int, title: str, detail: str = "", errors: list[FieldError] | None = None) -> None:
        super().__init__(detail or title)
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors or []

    def lines(self) -> list[str]:
        return [describe(error) for error in self.errors] or super().lines()


class Invalid(ApiError):
    """400, 422: the request is wrong; `errors` names the fields."""


class Unauthorized(ApiError):
    """401: no API key, or one that is unknown, revoked or expired."""


class Forbidden(ApiError):
    """403: the key's role is too low, or the thing is somebody else's."""


class NotFound(ApiError):
    """404: there is no such thing."""


class Conflict(ApiError):
    """409: not possible in the present state."""


class TooLarge(ApiError):
    """413: the request's body is too large."""


class ServerError(ApiError):
    """5xx: the service failed; the same request may work later."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: Invalid,
}


def api_error(status: int, title: str, detail: str = "", errors: list[FieldError] | None = None) -> ApiError:
    """The exception of an HTTP status."""
    kind = ServerError if status >= 500 else _BY_STATUS.get(status, ApiError)
    return kind(status, title, detail, errors)


def describe(error: FieldError) -> str:
    """One line: the field, what is wrong with it, what came."""
    field, value, message = error["field"], error.get("value"), error["message"]
    if not message.startswith(field):
        message = f"{field}: {message}"
    shown = repr(value) if len(repr(value)) <= 100 else repr(value)[:99] + "…"
    return message if value is None or shown in message else f"{message} (got {shown})"
