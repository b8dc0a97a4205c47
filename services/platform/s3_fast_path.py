"""A fast path for the commonest requests to S3: plain reads, and writes of small objects.

aiobotocore spends several times as much CPU time on such a request as it takes to send it. So it makes only the first
of each operation and bucket, and that is the pattern of the next ones: address, region and owner are taken from it;
the key, the conditions and the body are their own. They go through aiobotocore's own HTTP session, with its proxies,
certificates and timeouts. A success is the caller's. Whatever else comes of a request is handed to aiobotocore as what
came of its first try, and it finds out what that means, whether to try again, and where.

Whatever is unusual (other operations, parameters, signatures, headers) takes aiobotocore's way from the beginning.
"""

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from aiobotocore.response import StreamingBody
from botocore.awsrequest import AWSPreparedRequest

from services.platform import effects
from services.platform.sigv4 import ALGORITHM, Scope, authorization

BODY_BYTES_MAX = 1 << 20  # aiobotocore asks S3 whether it wants a body before it sends it, which pays for larger ones
_BUCKETS_MAX = 1_000

_NO_BODY_SHA256 = sha256(b"").hexdigest()
_HEADERS = {"IfMatch": "if-match", "Range": "range", "ContentType": "content-type"}  # by parameter
_OF_ONE_TRY = {"amz-sdk-invocation-id", "amz-sdk-request", "content-length", "expect"}
_USER_AGENT, _OWNER = "user-agent", "x-amz-expected-bucket-owner"
_METADATA = "x-amz-meta-"
_SURROGATE = re.compile("[\ud800-\udfff]")  # not a character: UTF-8 has none of them


@dataclass(slots=True)
class _Call:
    """A call that aiobotocore makes: what came of its first try, if that was made here, and what it sent last."""

    event: str
    answer: Any = None
    error: Exception | None = None
    is_handed_over: bool = False  # what came of the present try
    sent: AWSPreparedRequest | None = None

    def before_send(self, request: AWSPreparedRequest) -> Any:
        """Once, what has come of the first try already: an answer is returned, an error raised."""
        answer, error = self.answer, self.error
        self.answer = self.error = None
        self.is_handed_over = answer is not None or error is not None
        if error is not None:
            raise error
        if answer is None:
            self.sent = request
        return answer


_call: ContextVar[_Call | None] = ContextVar("call", default=None)


def is_handed_over(event_name: str) -> bool:
    """Whether the try of which botocore's event `before-send` tells has been made by the fast path already."""
    call = _call.get()
    return call is not None and call.event == event_name and call.is_handed_over


class _Pattern(NamedTuple):
    """What the requests of an operation to a bucket have in common."""

    method: str
    prefix: str  # of the URL, before the key
    path: str  # of `prefix`
    scope: Scope
    signed: Mapping[str, str]  # headers
    user_agent: str

    def request(self, params: Mapping[str, Any], credentials: Any, stamp: str, *, streams: bool) -> AWSPreparedRequest:
        """A request with these parameters, signed at the time `stamp`; `streams` if its answer's body is to be."""
        key, body = _quote_key(params["Key"]), params.get("Body")
        query = f"versionId={quote(params['VersionId'], safe='')}" if "VersionId" in params else ""
        payload_sha256 = _NO_BODY_SHA256 if body is None else sha256(body).hexdigest()
        headers = {**self.signed, "x-amz-content-sha256": payload_sha256, "x-amz-date": stamp}
        headers |= {_HEADERS[name]: params[name] for name in params if name in _HEADERS}
        if credentials.token:
            headers["x-amz-security-token"] = credentials.token
        headers["authorization"] = authorization(
            credentials.access_key,
            credentials.secret_key,
            self.scope,
            self.method,
            self.path + key,
            query,
            headers,
            payload_sha256,
        )
        del headers["host"]  # the HTTP client sends it
        headers[_USER_AGENT] = self.user_agent
        if body is not None:
            headers["content-length"] = str(len(body))
        return AWSPreparedRequest(self.method, f"{self.prefix}{key}{query and '?'}{query}", headers, body, streams)


def _find_pattern(example: AWSPreparedRequest, key: str) -> _Pattern | None:
    """None if the request has no key at its path's end, or no signature of version 4."""
    address, headers = example.url.partition("?")[0], _headers_of(example)
    algorithm, _, credential = headers.get("authorization", "").partition(" Credential=")
    valid = credential.partition(",")[0].split("/")
    if algorithm != ALGORITHM or len(valid) < 5 or not address.endswith(f"/{_quote_key(key)}"):
        return None
    prefix = address.removesuffix(_quote_key(key))
    url = urlsplit(prefix)
    signed = {"host": url.netloc.lower().removesuffix(":443" if url.scheme == "https" else ":80")}
    if _OWNER in headers:
        signed[_OWNER] = headers[_OWNER]
    return _Pattern(example.method, prefix, url.path, Scope(*valid[-3:-1]), signed, headers.get(_USER_AGENT, ""))


def _quote_key(key: str) -> str:
    return quote(key, safe="/~")


def _headers_of(request: AWSPreparedRequest) -> dict[str, str]:
    return {
        name.lower(): value.decode() if isinstance(value, bytes) else value for name, value in request.headers.items()
    }


class _Operation:
    """One of S3's operations that have a fast path."""

    def __init__(self, client: Any, method: str, name: str, parse_time: Callable[[str], datetime]) -> None:
        self.name = name
        self.call = getattr(client, method)
        self.model = client.meta.service_model.operation_model(name)
        self.streams = bool(self.model.has_streaming_output)
        self.has_body = bool(self.model.has_streaming_input)
        self.patterns: dict[str, _Pattern] = {}  # by bucket
        readers: dict[str, Callable[[str], Any]] = {
            "integer": int,
            "long": int,
            "boolean": "true".__eq__,
            "timestamp": parse_time,
        }
        self._readers: dict[str, tuple[str, Callable[[str], Any]]] = {
            shape.serialization["name"].lower(): (member, readers.get(shape.type_name, str))
            for member, shape in self.model.output_shape.members.items()
            if shape.serialization.get("location") == "header"
        }

    def takes(self, params: Mapping[str, Any]) -> bool:
        """Whether a request with these parameters can be one of a pattern."""
        if not ("Bucket" in params and "Key" in params and ("Body" in params) == self.has_body):
            return False
        return all(_is_plain(name, value) for name, value in params.items())

    def keep(self, bucket: str, pattern: _Pattern) -> None:
        if len(self.patterns) >= _BUCKETS_MAX:
            self.patterns.clear()
        self.patterns[bucket] = pattern

    async def has_succeeded(self, answer: Any) -> bool:
        """Whether it is a success that has nothing unusual."""
        if answer.status_code not in (200, 206) or "expires" in answer.headers:  # which need not be a time
            return False
        return self.streams or not await answer.content  # a body that should not be is an error which S3 tells late

    def read(self, answer: Any) -> dict[str, Any]:
        """A success as aiobotocore tells it."""
        read: dict[str, Any] = {"ResponseMetadata": {"HTTPStatusCode": answer.status_code, "RetryAttempts": 0}}
        metadata = {}
        for name, value in answer.headers.items():
            if found := self._readers.get(name):
                read[found[0]] = found[1](value)
            elif name.startswith(_METADATA):
                metadata[name.removeprefix(_METADATA)] = value
        if not self.has_body:
            read["Metadata"] = metadata
        if self.streams:
            read["Body"] = StreamingBody(answer.raw, read.get("ContentLength"))
        return read


def _is_plain(name: str, value: object) -> bool:
    if name == "Body":
        return type(value) is bytes and len(value) <= BODY_BYTES_MAX
    if type(value) is not str or not value:
        return False
    if name in _HEADERS:
        return value.isascii() and value.isprintable()
    return name in ("Bucket", "Key", "VersionId") and not _SURROGATE.search(value)


class FastPath:
    """S3's client, with a fast path. What it lacks, it takes from the client."""

    def __init__(self, client: Any, credentials: Any, parse_time: Callable[[str], datetime]) -> None:
        """`credentials` are those that the client signs with; `parse_time` reads times as the client does."""
        self._client = client
        self._credentials = credentials
        self._http = client._endpoint.http_session  # there is no public way to it
        self._get = _Operation(client, "get_object", "GetObject", parse_time)
        self._head = _Operation(client, "head_object", "HeadObject", parse_time)
        self._put = _Operation(client, "put_object", "PutObject", parse_time)
        client.meta.events.register("before-send.s3", _before_send)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def get_object(self, **params: Any) -> dict[str, Any]:
        return await self._do(self._get, params)

    async def head_object(self, **params: Any) -> dict[str, Any]:
        return await self._do(self._head, params)

    async def put_object(self, **params: Any) -> dict[str, Any]:
        return await self._do(self._put, params)

    async def _do(self, operation: _Operation, params: dict[str, Any]) -> dict[str, Any]:
        call = _Call(f"before-send.s3.{operation.name}")
        credentials = await self._credentials.get_frozen_credentials() if operation.takes(params) else None
        pattern = operation.patterns.get(params["Bucket"]) if credentials else None
        if pattern is not None:
            stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
            request = pattern.request(params, credentials, stamp, streams=operation.streams)
            if (read := await self._try(operation, request, call)) is not None:
                return read
        token = _call.set(call)
        try:
            answer: dict[str, Any] = await operation.call(**params)
        finally:
            _call.reset(token)
        if credentials and call.sent is not None:
            _learn(operation, params, credentials, call.sent)
        return answer

    async def _try(self, operation: _Operation, request: AWSPreparedRequest, call: _Call) -> dict[str, Any] | None:
        """None if it is not a plain success; `call` then has what has come of the request."""
        effects.tell("before", "s3", operation.name)
        try:
            answer = await self._http.send(request)
            if not await operation.has_succeeded(answer):
                call.answer = answer
                return None
        except Exception as error:
            call.error = error
            return None
        effects.tell("after", "s3", operation.name)
        read = operation.read(answer)
        event = f"after-call.s3.{operation.name}"  # it keeps account of successes, for the retries, and wraps bodies
        await self._client.meta.events.emit(event, http_response=answer, parsed=read, model=operation.model, context={})
        return read


def _learn(operation: _Operation, params: Mapping[str, Any], credentials: Any, sent: AWSPreparedRequest) -> None:
    """Keep what was sent as a pattern if that makes the very same request again, down to its signature."""
    if (pattern := _find_pattern(sent, params["Key"])) is None:
        return
    headers = _headers_of(sent)
    again = pattern.request(params, credentials, headers.get("x-amz-date", ""), streams=operation.streams)
    if (again.method, again.url, _lasting(_headers_of(again))) == (sent.method, sent.url, _lasting(headers)):
        operation.keep(params["Bucket"], pattern)


def _lasting(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in _OF_ONE_TRY}


def _before_send(event_name: str, **sent: Any) -> Any:
    """A handler of botocore's event, which takes an answer in place of sending the request."""
    call = _call.get()
    return call.before_send(sent["request"]) if call is not None and call.event == event_name else None
