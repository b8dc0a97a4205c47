"""An object of 1 TB: what is read of it to split it is at most 0.01 % of it."""

from collections.abc import AsyncIterator

import pytest

from bench.vast_s3 import Keys, VastS3
from services.inputs.split import split
from services.platform.aws import Aws, connect_aws
from services.platform.settings import Settings
from tests.integration.inputs.conftest import INPUT, SLOTS

TERABYTE = 10**12
PARTS = 16_384


@pytest.fixture
async def vast() -> AsyncIterator[VastS3]:
    vast = VastS3(TERABYTE, Keys("", 0))
    await vast.start()
    yield vast
    await vast.stop()


@pytest.fixture
async def vast_aws(vast: VastS3) -> AsyncIterator[Aws]:
    async with connect_aws(Settings(aws_endpoint_url=vast.url)) as aws:
        yield aws


async def test_a_terabyte_is_split_by_reading_a_ten_thousandth_of_it(vast: VastS3, vast_aws: Aws) -> None:
    """Two of its 64 chunks (`make bench SUITES=splits` does all): each reads its share."""
    source = INPUT.validate_python({"type": "lines", "uri": "s3://vast/in.csv", "format": "csv", "parts": PARTS})
    first = await split(vast_aws.s3, source, None, SLOTS)
    last = first.cursor | {"target": TERABYTE - 100 * first.cursor["part_bytes"]}
    second = await split(vast_aws.s3, source, last | {"start": last["target"]}, SLOTS)

    parts = [*first.inputs, *second.inputs]
    assert second.done and second.inputs[-1]["end"] == TERABYTE
    assert len(parts) == pytest.approx(256 + 100, abs=2)
    assert vast.read <= TERABYTE / 10_000 * len(parts) / PARTS
    assert vast.requests["GET"] <= len(parts) + 2
