"""Clients for AWS or an emulator: those of S3, SQS and Auto Scaling stay open, others are opened when needed."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import aioboto3
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.utils import parse_timestamp

from services.platform import effects
from services.platform.s3_fast_path import FastPath, is_handed_over
from services.platform.settings import Settings, refuse_to_start
from services.platform.slow import impatient_session, watch_bodies


@dataclass(frozen=True, slots=True)
class Aws:
    """Open clients; aiobotocore makes their methods at run time, so they are typed Any."""

    s3: Any
    sqs: Any
    autoscaling: Any


def _parse_time(value: Any) -> datetime:
    """Parse a time in an answer. botocore's own parser takes most of the time of reading a listing."""
    if isinstance(value, str):
        with suppress(ValueError):
            return datetime.fromisoformat(value) if value[10:11] == "T" else parsedate_to_datetime(value)
    parsed: datetime = parse_timestamp(value)
    return parsed


_KINDS: dict[str, effects.Kind] = {
    "s3": "s3",
    "sqs": "sqs",
    "auto-scaling": "autoscaling",
    "secrets-manager": "secretsmanager",
    "ssm": "ssm",
    "ecr": "ecr",
    "sts": "sts",
    "sns": "sns",
}


def _tell(event_name: str, **_: Any) -> None:
    """botocore tells of each HTTP try of a call; where a body is streamed, "after" is when its head has come.

    Below it, aiohttp sends a GET, HEAD or PUT again when its connection breaks before the answer: that stays unseen.
    """
    event, service, operation = event_name.split(".")
    if is_handed_over(event_name):
        return
    effects.tell("before" if event == "before-send" else "after", _KINDS[service], operation)


# What botocore's defaults (one try, one second) would make an AWS without credentials of, right after a node's boot.
_METADATA = {"metadata_service_num_attempts": 5, "metadata_service_timeout": 2}


@cache
def _session() -> aioboto3.Session:
    """One session per process, so that each service's large API description is parsed once."""
    session = get_session()
    for name, value in _METADATA.items():
        if f"AWS_{name.upper()}" not in os.environ:
            session.set_config_variable(name, value)
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_time)
    session.register("before-send", _tell)
    session.register("response-received", _tell)
    return aioboto3.Session(botocore_session=session)


async def find_credentials() -> tuple[Any, str | None]:
    """What requests are signed with now, or None, and the region; those of a role are renewed before they expire."""
    credentials = await _session().get_credentials()
    return credentials and await credentials.get_frozen_credentials(), _session().region_name


class _OwnedBucket:
    """Has S3 refuse the own bucket's name if the bucket is somebody else's, who may have waited for it to be free.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html
    """

    def __init__(self, bucket: str, owner: str) -> None:
        self._bucket, self._owner = bucket, owner

    def __call__(self, params: dict[str, Any], model: Any, context: dict[str, Any], **_: Any) -> None:
        if context.get("is_presign_request") or model.input_shape is None:  # who follows a link sends no such header
            return
        source = params.get("CopySource")
        for is_own, name in (
            (params.get("Bucket") == self._bucket, "ExpectedBucketOwner"),
            (isinstance(source, dict) and source["Bucket"] == self._bucket, "ExpectedSourceBucketOwner"),
        ):
            if is_own and name in model.input_shape.members:
                params[name] = self._owner


def require_region() -> None:
    """End the process, as bad settings do, if there is no AWS region."""
    if _session().region_name is None:
        refuse_to_start(
            "AWS_DEFAULT_REGION: it is not set, and no AWS profile names a region; set it, for example to us-east-1"
        )


@asynccontextmanager
async def connect_aws(settings: Settings, tries: int = 5) -> AsyncIterator[Aws]:
    """Open the three clients for the time of the context; a call is tried up to `tries` times, with backoff."""
    url = settings.aws_endpoint_url
    config = AioConfig(
        retries={"mode": "standard", "max_attempts": tries},
        max_pool_connections=64,
        connect_timeout=5,
        s3={"addressing_style": "path" if url else "auto"},
        signature_version="v4",
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    # To load the CA certificates takes longer than the rest of a client's start, and an emulator has no TLS.
    verify = False if url and url.startswith("http://") else None
    limits = settings.s3_read_seconds, settings.s3_floor_bytes
    s3_config = config.merge(AioConfig(signature_version="s3v4", read_timeout=limits[0]))
    s3_config.http_session_cls = impatient_session(*limits)  # which `merge` would drop
    # A long poll lasts up to 20 s, everything else is quick; each trigger has one open.
    sqs_config = config.merge(AioConfig(read_timeout=25, max_pool_connections=1024))
    async with AsyncExitStack() as stack:

        async def client(name: str, client_config: AioConfig) -> Any:
            context = _session().client(name, endpoint_url=url, verify=verify, config=client_config)
            return await stack.enter_async_context(context)

        s3 = await client("s3", s3_config)
        if settings.bucket_owner is not None:
            s3.meta.events.register("provide-client-params.s3", _OwnedBucket(settings.bucket, settings.bucket_owner))
        s3.meta.events.register("after-call.s3.GetObject", watch_bodies(*limits))
        if (credentials := await _session().get_credentials()) is not None:
            s3 = FastPath(s3, credentials, _parse_time)
        yield Aws(s3, await client("sqs", sqs_config), await client("autoscaling", config))


@asynccontextmanager
async def open_client(service: str, settings: Settings, region: str | None) -> AsyncIterator[Any]:
    """A client of a service that is rarely called, for the time of the context; None is the process's region."""
    config = AioConfig(retries={"mode": "standard", "max_attempts": 3}, connect_timeout=5, read_timeout=10)
    context = _session().client(service, endpoint_url=settings.aws_endpoint_url, region_name=region, config=config)
    async with context as client:
        yield client
