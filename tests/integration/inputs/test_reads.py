"""Ranged reads through a network that tears bodies."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from deploy.local.emulator import Emulator
from services.contract.location import Location
from services.platform.aws import Aws, connect_aws
from services.platform.reads import read_range
from services.platform.settings import Settings
from tests.storm.aws_proxy import AwsProxy
from tests.storm.journal import Journal


@pytest.fixture
async def proxy(emulator: Emulator, tmp_path: Path) -> AsyncIterator[AwsProxy]:
    journal = Journal(tmp_path / "storm.jsonl")
    proxy = AwsProxy(emulator.url, journal)
    await proxy.start()
    yield proxy
    await proxy.stop()
    journal.close()


@pytest.mark.parametrize("torn", [0, 1, 4])
async def test_a_body_that_breaks_off_is_read_again(settings: Settings, aws: Aws, proxy: AwsProxy, torn: int) -> None:
    await aws.s3.put_object(Bucket=settings.bucket, Key="some", Body=b"0123456789")
    proxy.arm("S3 read torn", torn)

    async with connect_aws(settings.model_copy(update={"aws_endpoint_url": proxy.url})) as torn_aws:
        assert await read_range(torn_aws.s3, Location(settings.bucket, "some"), 2, 8) == b"234567"


async def test_a_body_that_always_breaks_off_is_told(settings: Settings, aws: Aws, proxy: AwsProxy) -> None:
    await aws.s3.put_object(Bucket=settings.bucket, Key="some", Body=b"0123456789")
    proxy.arm("S3 read torn", 1000)

    async with connect_aws(settings.model_copy(update={"aws_endpoint_url": proxy.url})) as torn_aws:
        with pytest.raises(aiohttp.ClientPayloadError):
            await read_range(torn_aws.s3, Location(settings.bucket, "some"), 2, 8)
