"""A node that does not reach S3 takes no tasks until it does."""

import asyncio
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from services.platform.transfer import find_outage
from services.worker.node.storage import Storage

AWAY = EndpointConnectionError(endpoint_url="http://s3")


class Bucket:
    """Answers as it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked = asyncio.Event()

    async def head_bucket(self, **_: Any) -> None:
        self.asked.set()
        if self.error is not None:
            raise self.error


async def test_a_node_is_away_from_s3_until_it_answers_again() -> None:
    bucket, changed = Bucket(AWAY), asyncio.Event()
    storage = Storage(bucket, "b", changed.set)
    watching = asyncio.create_task(storage.run())
    storage.note({"type": "exit_code", "message": ""})
    storage.note(None)
    await asyncio.sleep(0)
    assert storage.reached and not bucket.asked.is_set(), "such an error raises no doubt"

    storage.note({"type": "output_unavailable", "message": ""})
    await bucket.asked.wait()
    await asyncio.sleep(0)
    assert not storage.reached and not changed.is_set()

    bucket.error = None
    async with asyncio.timeout(10):
        await changed.wait()
    assert storage.reached
    watching.cancel()


async def test_a_node_whose_own_look_reaches_s3_goes_on_at_once() -> None:
    bucket, changed = Bucket(), asyncio.Event()
    storage = Storage(bucket, "b", changed.set)
    watching = asyncio.create_task(storage.run())
    storage.note({"type": "input_unavailable", "message": ""})
    async with asyncio.timeout(10):
        await changed.wait()
    assert storage.reached
    watching.cancel()


@pytest.mark.parametrize("code", ["403", "404", "301"])
async def test_an_answer_of_any_kind_shows_that_s3_is_reached(code: str) -> None:
    refused = ClientError({"Error": {"Code": code, "Message": ""}}, "HeadBucket")
    assert await find_outage(Bucket(refused), "b", 5.0) is None
    assert await find_outage(Bucket(AWAY), "b", 5.0) is AWAY
