"""The fast path asks S3 for the same as aiobotocore does, and leaves to it whatever is unusual."""

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiobotocore.awsrequest import AioAWSResponse
from aiobotocore.credentials import AioRefreshableCredentials
from aiobotocore.httpsession import AIOHTTPSession
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError, EndpointConnectionError
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from services.platform import aws, effects
from services.platform.effects import Effect, Moment
from services.platform.s3_fast_path import BODY_BYTES_MAX
from services.platform.settings import Settings

REFUSED = "<Error><Code>{}</Code><Message>no</Message></Error>"
ONE_TRYS = {"amz-sdk-invocation-id", "amz-sdk-request", "expect"}


def answer(status: int = 200, body: bytes = b"", **headers: str) -> Callable[[Any], AioAWSResponse]:
    """An answer of S3, with a body that can be read as aiohttp's."""

    def make(request: Any) -> AioAWSResponse:
        left = [body] if body else []

        async def read(_: int = -1) -> bytes:
            return left.pop() if left else b""

        named = {name.replace("_", "-"): value for name, value in headers.items()}
        raw = SimpleNamespace(read=read, content=SimpleNamespace(read=read, at_eof=lambda: not left), url=request.url)
        return AioAWSResponse(request.url, status, {"content-length": str(len(body)), "etag": '"e"'} | named, raw)

    return make


def refusal(status: int, code: str, **headers: str) -> Callable[[Any], AioAWSResponse]:
    return answer(status, REFUSED.format(code).encode(), **headers)


def broken(request: Any) -> AioAWSResponse:
    raise EndpointConnectionError(endpoint_url=request.url, error="broken")


@dataclass
class Sent:
    """A request as it reached the HTTP session."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes

    @property
    def by_aiobotocore(self) -> bool:
        return "amz-sdk-invocation-id" in self.headers

    @property
    def lasting(self) -> dict[str, str]:
        """The headers that the next try would have, too; what is signed when is seen by `is_signed`."""
        when = {"authorization", "x-amz-date", "content-length"}
        return {name: value for name, value in self.headers.items() if name not in ONE_TRYS | when}

    def is_signed(self, region: str, access_key: str = "test", token: str | None = None) -> bool:
        """Whether botocore signs just so what was sent, just then."""
        said = self.headers["authorization"]
        names = said.partition("SignedHeaders=")[2].partition(",")[0].split(";")
        headers = {name: self.headers[name] for name in names if name in self.headers and name != "x-amz-date"}
        request = AWSRequest(self.method, self.url, headers, self.body)
        signer = S3SigV4Auth(Credentials(access_key, "test", token), "s3", region)
        request.context["timestamp"] = request.headers["X-Amz-Date"] = self.headers["x-amz-date"]
        canonical = signer.canonical_request(request)
        return said.endswith(f"Signature={signer.signature(signer.string_to_sign(request, canonical), request)}")


@dataclass
class S3:
    """Answers what is queued, then successes."""

    sent: list[Sent] = field(default_factory=list)
    answers: list[Callable[[Any], AioAWSResponse]] = field(default_factory=list)

    async def send(self, _: Any, request: Any) -> AioAWSResponse:
        headers = {
            name.lower(): value.decode() if isinstance(value, bytes) else value
            for name, value in request.headers.items()
        }
        body = request.body.read() if hasattr(request.body, "read") else request.body or b""
        self.sent.append(Sent(request.method, request.url, headers, body))
        return (self.answers.pop(0) if self.answers else answer())(request)

    @property
    def ways(self) -> str:
        """Who sent the requests: aiobotocore or the fast path."""
        return "".join("a" if sent.by_aiobotocore else "f" for sent in self.sent)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> S3:
    there = S3()
    monkeypatch.setattr(AIOHTTPSession, "send", lambda session, request: there.send(session, request))

    async def at_once(_: float) -> None:
        pass

    monkeypatch.setattr("aiobotocore.endpoint.asyncio", SimpleNamespace(sleep=at_once))
    return there


@asynccontextmanager
async def client(url: str | None = None, **settings: Any) -> AsyncIterator[Any]:
    async with aws.connect_aws(Settings(aws_endpoint_url=url, **settings), tries=2) as opened:
        yield opened.s3


PLACES = [
    (None, "plain", "https://plain.s3.amazonaws.com/"),
    (None, "with.dots", "https://s3.amazonaws.com/with.dots/"),
    (
        None,
        "arn:aws:s3:eu-west-1:123456789012:accesspoint/mine",
        "https://mine-123456789012.s3-accesspoint.eu-west-1.amazonaws.com/",
    ),
    ("http://127.0.0.1:4566", "plain", "http://127.0.0.1:4566/plain/"),
    ("https://vpce-1.s3.us-east-1.vpce.amazonaws.com:443/", "plain", None),
    ("http://S3.test:80", "plain", None),
    ("http://s3.test/below", "with.dots", "http://s3.test/below/with.dots/"),
    ("https://[::1]:9000", "plain", "https://[::1]:9000/plain/"),
]


@pytest.mark.parametrize(("url", "bucket", "prefix"), PLACES)
async def test_wherever_a_bucket_is_the_next_requests_go_as_the_first(
    s3: S3, url: str | None, bucket: str, prefix: str | None
) -> None:
    async with client(url) as fast:
        for key in ("first", "next/ä b+?%2F/../~//x"):
            await fast.put_object(Bucket=bucket, Key=key, Body=b"body", ContentType="text/plain; charset=utf-8")
            await fast.get_object(Bucket=bucket, Key=key, IfMatch='"e"', Range="bytes=0-1", VersionId="a/b c")
            await fast.head_object(Bucket=bucket, Key=key, IfMatch='"e"')

        assert s3.ways == "aaafff"
        region = "eu-west-1" if bucket.startswith("arn:") else "us-east-1"
        for first, then in zip(s3.sent[:3], s3.sent[3:], strict=True):
            assert (first.method, first.lasting, first.body) == (then.method, then.lasting, then.body)
            assert first.is_signed(region) and then.is_signed(region)
            assert first.url.replace("first", "next/%C3%A4%20b%2B%3F%252F/../~//x") == then.url
            assert prefix is None or then.url.startswith(f"{prefix}next/")


async def test_the_next_requests_name_the_owner_of_the_own_bucket_too(s3: S3) -> None:
    async with client(bucket="plain", bucket_owner="123456789012") as fast:
        for bucket in ("plain", "other") * 2:
            await fast.get_object(Bucket=bucket, Key="key")
    assert s3.ways == "aaff"
    owners = [sent.headers.get("x-amz-expected-bucket-owner") for sent in s3.sent]
    assert owners == ["123456789012", None] * 2 and s3.sent[2].is_signed("us-east-1")


@pytest.fixture
async def fast(s3: S3) -> AsyncIterator[Any]:
    """A client for which the first requests to the bucket `plain` have been made."""
    async with client() as fast:
        for ask in (fast.get_object, fast.head_object):
            await ask(Bucket="plain", Key="key")
        await fast.put_object(Bucket="plain", Key="key", Body=b"body")
        assert s3.ways == "aaa"
        s3.sent.clear()
        yield fast


@hypothesis_settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(key=st.text(st.characters(codec="utf-8"), min_size=1), version=st.none() | st.text(min_size=1, max_size=9))
async def test_any_key_and_version_is_found_where_botocore_says(
    fast: Any, s3: S3, key: str, version: str | None
) -> None:
    params = {"Bucket": "plain", "Key": key} | ({} if version is None else {"VersionId": version})
    await fast.get_object(**params)
    said, sent = urlsplit(await fast.generate_presigned_url("get_object", Params=params)), s3.sent[-1]
    assert not sent.by_aiobotocore and sent.is_signed("us-east-1")
    assert (sent.url.partition("?")[0], sent.url.partition("?")[2]) == (
        f"{said.scheme}://{said.netloc}{said.path}",
        "&".join(pair for pair in said.query.split("&") if not pair.startswith("X-Amz-")),
    )


@pytest.mark.parametrize(
    "unusual",
    [
        {"Metadata": {"a": "b"}},
        {"IfNoneMatch": "*"},
        {"RequestPayer": "requester"},
        {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key"},
        {"StorageClass": "STANDARD_IA"},
        {"Body": io.BytesIO(b"body")},
        {"Body": bytes(BODY_BYTES_MAX + 1)},
        {"ContentType": "text/\u00e4"},
        {"Bucket": "other"},
    ],
    ids=lambda unusual: next(iter(unusual)),
)
async def test_whatever_is_unusual_is_aiobotocores(fast: Any, s3: S3, unusual: dict[str, Any]) -> None:
    await fast.put_object(**({"Bucket": "plain", "Key": "key", "Body": b"body"} | unusual))
    assert s3.ways == "a"


async def test_what_aiobotocore_refuses_is_refused(fast: Any, s3: S3) -> None:
    for params in ({"Key": ""}, {"Key": 7}, {"Key": "key", "Range": 7}, {"Key": "\ud800"}, {}):
        with pytest.raises((BotoCoreError, UnicodeEncodeError)):
            await fast.get_object(Bucket="plain", **params)
    assert s3.sent == []


async def test_requests_with_an_unsigned_body_are_not_a_pattern(
    s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A user may have said what botocore is to do differently: it does so each time."""
    (tmp_path / "config").write_text("[default]\nregion = us-east-1\ns3 =\n  payload_signing_enabled = false\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    aws._session.cache_clear()
    async with client() as fast:
        for _ in range(3):
            await fast.put_object(Bucket="plain", Key="key", Body=b"body")
    aws._session.cache_clear()
    assert s3.ways == "aaa"


async def test_an_answer_reads_as_aiobotocores(fast: Any, s3: S3) -> None:
    headers = {
        "content_length": "4",
        "content_range": "bytes 0-3/9",
        "content_type": "text/plain",
        "last_modified": "Fri, 24 May 2013 00:00:00 GMT",
        "x_amz_meta_Owner": "me",
        "x_amz_server_side_encryption": "aws:kms",
        "x_amz_server_side_encryption_bucket_key_enabled": "true",
        "x_amz_missing_meta": "1",
        "x_amz_version_id": "v",
        "x_amz_other": "no matter",
    }
    for ask, params in ((fast.get_object, {}), (fast.head_object, {}), (fast.put_object, {"Body": b"body"})):
        answers = []
        for bucket in ("plain", "first"):
            s3.answers = [answer(206, b"body" if ask == fast.get_object else b"", **headers)]
            read = await ask(Bucket=bucket, Key="key", **params)
            del read["ResponseMetadata"]
            answers.append(read | ({"Body": await read["Body"].read()} if "Body" in read else {}))
        assert answers[0] == answers[1]
        assert answers[0]["ETag"] == '"e"' and answers[0].get("Body", b"body") == b"body"
    assert s3.ways == "fa" * 3


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (refusal(404, "NoSuchKey"), "NoSuchKey"),
        (refusal(403, "AccessDenied"), "AccessDenied"),
        (refusal(412, "PreconditionFailed"), "PreconditionFailed"),
        (refusal(416, "InvalidRange"), "InvalidRange"),
    ],
)
async def test_a_refusal_is_told_after_one_request(fast: Any, s3: S3, first: Any, code: str) -> None:
    s3.answers = [first]
    with pytest.raises(ClientError) as failed:
        await fast.get_object(Bucket="plain", Key="key")
    assert failed.value.response["Error"]["Code"] == code
    assert s3.ways == "f"
    await fast.get_object(Bucket="plain", Key="key")
    assert s3.ways == "ff"


PASSING = [refusal(503, "SlowDown"), refusal(500, "InternalError"), broken, refusal(200, "InternalError")]


@pytest.mark.parametrize("passing", PASSING, ids=["slow down", "internal error", "broken", "late error"])
async def test_what_may_pass_is_tried_again_as_often_as_ever(fast: Any, s3: S3, passing: Any) -> None:
    s3.answers = [passing]
    assert (await fast.put_object(Bucket="plain", Key="key", Body=b"body"))["ETag"] == '"e"'
    assert s3.ways == "fa"

    s3.sent, s3.answers = [], [passing] * 9
    with pytest.raises((ClientError, EndpointConnectionError)):
        await fast.put_object(Bucket="plain", Key="key", Body=b"body")
    tries = len(s3.sent)

    s3.sent, s3.answers = [], [passing] * 9
    with pytest.raises((ClientError, EndpointConnectionError)):
        await fast.put_object(Bucket="plain", Key="key", Body=b"body", Metadata={})
    assert s3.ways == "a" * tries


async def test_after_many_failures_successes_pay_for_new_tries(fast: Any, s3: S3) -> None:
    """botocore's quota of retries is used up by tries that fail; each success gives some of it back."""

    async def count_tries() -> int:
        s3.sent, s3.answers = [], [refusal(503, "SlowDown")] * 9
        with pytest.raises(ClientError):
            await fast.get_object(Bucket="plain", Key="key")
        s3.answers = []
        return len(s3.sent)

    while await count_tries() > 1:
        pass
    for _ in range(5):
        await fast.get_object(Bucket="plain", Key="key")
    assert await count_tries() == 2


async def test_a_bucket_that_has_moved_is_found_again(fast: Any, s3: S3) -> None:
    s3.answers = [refusal(301, "PermanentRedirect", x_amz_bucket_region="eu-west-1")]
    for _ in range(2):
        await fast.get_object(Bucket="plain", Key="key")
    assert [urlsplit(sent.url).hostname for sent in s3.sent] == [
        "plain.s3.amazonaws.com",
        *["plain.s3.eu-west-1.amazonaws.com"] * 2,
    ]
    assert s3.ways == "faf"
    assert all(sent.is_signed("eu-west-1") for sent in s3.sent[1:])


Renew = Callable[[], Awaitable[dict[str, str]]]


@asynccontextmanager
async def client_of_role(monkeypatch: pytest.MonkeyPatch, renew: Renew) -> AsyncIterator[Any]:
    """A client for which two requests have been made, and whose credentials have just expired."""
    old = {"access_key": "old", "secret_key": "test", "token": "token of old", "expiry_time": "2100-01-01T00:00:00Z"}
    credentials = AioRefreshableCredentials.create_from_metadata(old, renew, "test")
    session = aws._session.__wrapped__()
    monkeypatch.setattr(session._session, "_credentials", credentials)
    monkeypatch.setattr(aws, "_session", lambda: session)
    async with client() as fast:
        for _ in range(2):
            await fast.get_object(Bucket="plain", Key="key")
        credentials._expiry_time = datetime.now(UTC)
        yield fast


async def test_renewed_credentials_sign_the_next_request(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    async def renew() -> dict[str, str]:
        expiry = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        return {"access_key": "new", "secret_key": "test", "token": "token of new", "expiry_time": expiry}

    async with client_of_role(monkeypatch, renew) as fast:
        for _ in range(2):
            await fast.get_object(Bucket="plain", Key="key")
    assert s3.ways == "afff"
    for sent, key in zip(s3.sent, ("old", "old", "new", "new"), strict=True):
        assert sent.headers["x-amz-security-token"] == f"token of {key}"
        assert sent.is_signed("us-east-1", key, f"token of {key}")


async def test_credentials_that_can_not_be_renewed_are_told_as_ever(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    async def renew() -> dict[str, str]:
        raise CredentialRetrievalError(provider="test", error_msg="no")

    async with client_of_role(monkeypatch, renew) as fast:
        with pytest.raises(CredentialRetrievalError):
            await fast.get_object(Bucket="plain", Key="key")
    assert s3.ways == "af"


async def test_each_try_is_told_once(fast: Any, s3: S3) -> None:
    seen: list[tuple[Moment, Effect]] = []
    effects.watch(lambda moment, effect: seen.append((moment, effect)))
    s3.answers = [refusal(503, "SlowDown"), broken]
    await fast.get_object(Bucket="plain", Key="key")
    s3.answers = [broken]
    await fast.get_object(Bucket="plain", Key="key")
    await fast.get_object(Bucket="plain", Key="key")
    effects.watch(None)
    get = Effect("s3", "GetObject")
    assert s3.ways == "faafaf"
    assert seen == [("before", get), ("after", get)] * 6
