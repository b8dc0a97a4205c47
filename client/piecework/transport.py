"""JSON over HTTP to one service: authenticates, repeats what is safe to repeat, turns problems into exceptions."""

import contextlib
import json
import random
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, TypeVar, cast
from uuid import uuid4

import httpx

from piecework.errors import ApiError, InputError, TransportError, api_error

T = TypeVar("T")

BACKOFF_SECONDS = 0.25
RETRY_AFTER_SECONDS_MAX = 10.0
_TEMPORARY = frozenset({502, 503, 504})
_REFUSED = 429  # too many requests: this one was not looked at
_JSON = {"Content-Type": "application/json"}
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def backoff(failures: int) -> float:
    """Seconds to wait after this number of failures: doubling, with jitter."""
    return BACKOFF_SECONDS * 2.0 ** (failures - 1) * random.uniform(0.5, 1.0)


class Transport:
    """One service. Safe for several threads.

    On connection errors and on 502, 503, 504 a request is tried `tries` times; a POST that neither creates (creating
    ones carry an Idempotency-Key) nor is said to be repeatable only if it can't have been received, or got a 429.
    """

    def __init__(
        self, http: httpx.Client, service: str, url: str, origin: str, api_key: str | None, tries: int
    ) -> None:
        self._http = http
        self._service = service
        self._url = url.rstrip("/")
        self._origin = origin
        self._authorization = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._tries = tries
        self._clock_skew_least: timedelta | None = None

    def now(self) -> datetime:
        """The service's time, as its answers told it; our own before any answer."""
        if self._clock_skew_least is None:
            return datetime.now(UTC)
        # The true skew is within a second above the least; none at all is the likeliest.
        least = self._clock_skew_least
        return datetime.now(UTC) + min(max(timedelta(), least), least + timedelta(seconds=1))

    def get(self, shape: type[T], path: str, *, timeout_seconds: float | None = None, **query: Any) -> T:
        """`timeout_seconds` is for what the service waits with its answer."""
        return cast(T, self._call("GET", path, query=query, timeout_seconds=timeout_seconds))

    def lines(self, path: str, *, timeout_seconds: float | None = None, **query: Any) -> Iterator[Any]:
        """The values of an answer of JSON lines, as they come; `timeout_seconds` is for what may lie between two.

        Raises TransportError if it breaks off.
        """
        accept = {"Accept": "application/x-ndjson"}
        request = self._request("GET", path, query=query, headers=accept, timeout_seconds=timeout_seconds)
        response = self._send(request, repeatable=True, stream=True)
        try:
            if not response.is_success:
                response.read()
                self._read(response)
            self._note_clock(response)
            rest = b""
            for piece in response.iter_bytes():
                *lines, rest = (rest + piece).split(b"\n")
                yield from map(json.loads, lines)
        except httpx.RequestError as error:
            raise TransportError(self._unreachable(error)) from error
        except ValueError as error:
            raise TransportError(self._not_json()) from error
        finally:
            response.close()

    def post(
        self,
        shape: type[T],
        path: str,
        body: Any = None,
        *,
        repeatable: bool = False,
        timeout_seconds: float | None = None,
    ) -> T:
        """An order; `repeatable` if giving it twice does no more than giving it once. `timeout_seconds` is for orders
        that take longer than others."""
        return cast(T, self._call("POST", path, body=body, repeatable=repeatable, timeout_seconds=timeout_seconds))

    def create(self, shape: type[T], path: str, body: Any, idempotency_key: str | None = None, **query: Any) -> T:
        """A creating POST: however often it is sent, it creates once."""
        headers = {"Idempotency-Key": idempotency_key or str(uuid4())}
        return cast(T, self._call("POST", path, query=query, body=body, headers=headers))

    def put(self, shape: type[T], path: str, body: Any) -> T:
        return cast(T, self._call("PUT", path, body=body))

    def patch(self, shape: type[T], path: str, body: Any) -> T:
        return cast(T, self._call("PATCH", path, body=body))

    def delete(self, path: str, **query: Any) -> Any:
        """The answer, if there is one."""
        return self._call("DELETE", path, query=query)

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] = MappingProxyType({}),
        body: Any = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        repeatable: bool = True,
        timeout_seconds: float | None = None,
    ) -> Any:
        request = self._request(method, path, query=query, body=body, headers=headers, timeout_seconds=timeout_seconds)
        return self._read(self._send(request, repeatable))

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] = MappingProxyType({}),
        body: Any = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        timeout_seconds: float | None = None,
    ) -> httpx.Request:
        return self._http.build_request(
            method,
            self._url + path,
            params={name: value for name, value in query.items() if value is not None},
            headers={**self._authorization, **headers, **({} if body is None else _JSON)},
            content=None if body is None else _encode(body),
            timeout=httpx.USE_CLIENT_DEFAULT if timeout_seconds is None else timeout_seconds,
        )

    def _send(self, request: httpx.Request, repeatable: bool, *, stream: bool = False) -> httpx.Response:
        failures = 0
        while True:
            last = failures + 1 >= self._tries
            pause = None
            try:
                response = self._http.send(request, stream=stream)
            except httpx.RequestError as error:
                if last or not (repeatable or isinstance(error, _NOT_SENT)):
                    raise TransportError(self._unreachable(error)) from error
            else:
                again = response.status_code == _REFUSED or (repeatable and response.status_code in _TEMPORARY)
                if last or not again:
                    return response
                response.close()
                pause = _retry_after(response)
            failures += 1
            time.sleep(pause or backoff(failures))

    def _read(self, response: httpx.Response) -> Any:
        """The answer's JSON (None if empty); raises ApiError for a problem."""
        self._note_clock(response)
        if response.is_success:
            if not response.content:
                return None
            try:
                return response.json()
            except ValueError as error:
                raise TransportError(self._not_json()) from error
        problem = _problem(response)
        problem.retry_after = _retry_after(response)
        raise problem

    def _note_clock(self, response: httpx.Response) -> None:
        # Date is cut to the second, so each answer gives a lower bound: the highest is the nearest.
        with contextlib.suppress(KeyError, ValueError):
            skew = parsedate_to_datetime(response.headers["Date"]).astimezone(UTC) - datetime.now(UTC)
            self._clock_skew_least = max(skew, self._clock_skew_least or skew)

    def _not_json(self) -> str:
        return f"{self._url} answered with something other than JSON; is this the {self._service}'s URL?"

    def _unreachable(self, error: httpx.RequestError) -> str:
        reason = (
            "no answer in time" if isinstance(error, httpx.TimeoutException) else str(error) or type(error).__name__
        )
        reason = reason.partition("] ")[2] or reason  # without the number of the operating system's error
        return f"can't reach the {self._service} at {self._url}: {reason}; is it running? The URL: {self._origin}"


def _encode(body: Any) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"this can't be written as JSON: {error}") from error


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return min(float(value), RETRY_AFTER_SECONDS_MAX) if value.isdigit() else None


def _problem(response: httpx.Response) -> ApiError:
    """The exception of a problem answer; also of an answer that is not problem+json, such as a proxy's."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "title" not in problem:
        title = f"{response.status_code} {response.reason_phrase}"
        return api_error(response.status_code, title, f"{title} from {response.url.copy_with(query=None)}")
    return api_error(response.status_code, problem["title"], problem.get("detail") or "", problem.get("errors"))
