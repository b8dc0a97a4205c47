"""An S3 that hangs or trickles costs an attempt a read timeout, not its time."""

import asyncio
import io
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local.emulator import Emulator
from services.contract.location import Location
from services.contract.task_error import TaskError
from services.platform.aws import Aws, connect_aws
from services.platform.reads import read_range
from services.platform.settings import Settings
from services.platform.transfer import download, object_bytes, upload
from tests.sick_s3 import Sickness, SickS3
from tests.storm.journal import Journal

BODY = os.urandom(300_000)
READ_SECONDS = 0.5


@pytest.fixture
async def sick(emulator: Emulator, tmp_path: Path) -> AsyncIterator[SickS3]:
    journal = Journal(tmp_path / "storm.jsonl")
    proxy = SickS3(emulator.url, journal)
    await proxy.start()
    yield proxy
    proxy.sickness = "none"
    await proxy.stop()
    journal.close()


@pytest.fixture
async def place(settings: Settings, aws: Aws) -> Location:
    await aws.s3.put_object(Bucket=settings.bucket, Key="some/object", Body=BODY)
    return Location(settings.bucket, "some/object")


@pytest.fixture
async def s3(settings: Settings, sick: SickS3, place: Location) -> AsyncIterator[Any]:
    """A client as the worker has it, but for its times, that has asked for a bit of everything: see s3_fast_path."""
    quick = settings.model_copy(update={"aws_endpoint_url": sick.url, "s3_read_seconds": READ_SECONDS})
    async with connect_aws(quick, tries=2) as aws:
        await read_range(aws.s3, place, 0, 1)
        await aws.s3.head_object(Bucket=place.bucket, Key=place.key)
        await aws.s3.put_object(Bucket=place.bucket, Key="else", Body=b"")
        sick.ranges.clear()
        yield aws.s3


@pytest.mark.parametrize("sickness", ["silent bodies", "trickling bodies"])
async def test_a_body_that_stops_or_trickles_is_resumed_where_it_was(
    s3: Any, sick: SickS3, place: Location, sickness: Sickness
) -> None:
    sick.sickness, sick.times = sickness, 1
    file = io.BytesIO()
    assert await download(s3, place, file) == len(BODY)
    assert file.getvalue() == BODY
    (first, second) = sick.ranges
    assert first is None and second is not None and 0 < int(second.removeprefix("bytes=").rstrip("-")) < len(BODY)


async def test_a_ranged_read_that_falls_silent_is_read_again(s3: Any, sick: SickS3, place: Location) -> None:
    sick.sickness, sick.times = "silent bodies", 2
    assert await read_range(s3, place, 10, 200_010) == BODY[10:200_010]


@pytest.mark.parametrize("sickness", ["silent bodies", "trickling bodies", "deaf", "slow down", "refusing"])
async def test_what_lasts_for_six_read_timeouts_excuses_the_attempt(
    s3: Any, sick: SickS3, place: Location, sickness: Sickness
) -> None:
    sick.sickness = sickness
    began_at = time.monotonic()
    with pytest.raises(TaskError) as failed:
        await download(s3, place, io.BytesIO())
    assert (failed.value.type, failed.value.excused, failed.value.retryable) == ("input_unavailable", True, True)
    assert 6 * READ_SECONDS < time.monotonic() - began_at < 60
    assert sick.struck >= 2


@pytest.mark.parametrize("sickness", ["deaf", "slow down", "refusing"])
async def test_uploads_and_sizes_wait_and_go_on(
    s3: Any, sick: SickS3, place: Location, tmp_path: Path, sickness: Sickness
) -> None:
    (tmp_path / "file").write_bytes(BODY)
    sick.sickness, sick.times = sickness, 3
    with (tmp_path / "file").open("rb") as file:
        stored = await upload(s3, file, Location(place.bucket, "put"))
    assert stored.bytes == len(BODY)
    sick.times = 3
    assert await object_bytes(s3, Location(place.bucket, "put"), None) == len(BODY)


async def test_an_upload_that_nobody_takes_excuses_the_attempt(settings: Settings, tmp_path: Path) -> None:
    """The client asks first whether its bytes are wanted (100-continue), and would wait for an answer for ever."""
    (tmp_path / "file").write_bytes(b"small")
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    quick = settings.model_copy(update={"aws_endpoint_url": url, "s3_read_seconds": READ_SECONDS})
    async with connect_aws(quick, tries=2) as deaf:
        with (tmp_path / "file").open("rb") as file, pytest.raises(TaskError) as failed:
            await upload(deaf.s3, file, Location("bucket", "put"))
    server.close()
    assert (failed.value.type, failed.value.excused) == ("output_unavailable", True)


async def test_a_refusal_excuses_nobody(s3: Any, place: Location) -> None:
    with pytest.raises(TaskError) as failed:
        await download(s3, Location(place.bucket, "missing"), io.BytesIO())
    assert not failed.value.excused
