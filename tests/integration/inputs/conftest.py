"""Objects to split: a bucket of the test's own, and no database, which splitters know nothing of."""

from typing import Any
from uuid import uuid4

import pytest
from pydantic import TypeAdapter

from deploy.local.emulator import Emulator
from services.inputs.spec import Input
from services.inputs.split import split
from services.platform.aws import Aws
from services.platform.settings import Settings
from tests.integration.scheduler.conftest import Bucket

SLOTS = 2
INPUT: TypeAdapter[Input] = TypeAdapter(Input)


@pytest.fixture
def settings(emulator: Emulator) -> Settings:
    return Settings(aws_endpoint_url=emulator.url, bucket=f"test-{uuid4().hex}")


@pytest.fixture
def bucket(aws: Aws, settings: Settings) -> Bucket:
    return Bucket(aws.s3, settings.bucket)


async def split_all(aws: Aws, *, slots: int = SLOTS, **source: Any) -> list[dict[str, Any]]:
    """The inputs of all chunks, each begun from nothing but the cursor of the one before."""
    inputs: list[dict[str, Any]] = []
    cursor: dict[str, Any] | None = None
    for _ in range(1000):
        chunk = await split(aws.s3, INPUT.validate_python(source), cursor, slots)
        inputs += chunk.inputs * chunk.repeat
        cursor = chunk.cursor
        if chunk.done:
            return inputs
    raise AssertionError("a splitter that never ends")
