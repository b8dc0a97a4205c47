"""Downloads end with the bytes that were written, or say that the object does not hold them."""

import io
import tempfile
import zlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Self

import aiohttp
import pytest
from botocore.exceptions import ClientError

from services.contract.location import Location
from services.contract.task_error import TaskError
from services.platform.transfer import download, upload

PLACE = Location("bucket", "jobs/x")
WRITTEN = b"0123456789"
DAMAGED = b"01234x6789"


class Body:
    """A body in pieces of 4 bytes, which breaks off after `torn` of them."""

    def __init__(self, data: bytes, torn: int | None) -> None:
        self._pieces = [data[start : start + 4] for start in range(0, len(data), 4)]
        self._torn = torn

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def read(self, size: int) -> bytes:
        if self._torn == 0:
            raise aiohttp.ClientPayloadError("Response payload is not completed")
        self._torn = None if self._torn is None else self._torn - 1
        return self._pieces.pop(0) if self._pieces else b""


class Client:
    """Is as patient as S3's client."""

    meta = SimpleNamespace(config=SimpleNamespace(read_timeout=20.0))


class S3(Client):
    """Answers in turn with these bytes, or what breaks off of them; the last one stays."""

    def __init__(self, *answers: tuple[bytes, int | None]) -> None:
        self._answers = list(answers)
        self.requests: list[dict[str, Any]] = []

    async def get_object(self, **request: Any) -> dict[str, Any]:
        self.requests.append(request)
        data, torn = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        start = int(request["Range"].removeprefix("bytes=").split("-")[0]) if "Range" in request else 0
        return {"ETag": '"e"', "Body": Body(data[start:], torn)}


async def fetch(answers: Sequence[tuple[bytes, int | None]], **options: Any) -> tuple[bytes, S3]:
    """What follows the header `h,` in the file."""
    s3, file = S3(*answers), io.BytesIO()
    file.write(b"h,")
    assert await download(s3, PLACE, file, **options) == len(WRITTEN)
    header, body = file.getvalue()[:2], file.getvalue()[2:]
    assert header == b"h,"
    return body, s3


@pytest.mark.parametrize("damaged", [DAMAGED, WRITTEN[:7], WRITTEN + b"more"], ids=["other", "shorter", "longer"])
async def test_bytes_that_the_way_has_damaged_are_fetched_once_more(damaged: bytes) -> None:
    body, s3 = await fetch([(damaged, None), (WRITTEN, None)], crc32=zlib.crc32(WRITTEN))
    assert (body, len(s3.requests)) == (WRITTEN, 2)


async def test_a_body_that_breaks_off_is_resumed_and_checked_as_a_whole() -> None:
    body, s3 = await fetch([(WRITTEN, 1), (WRITTEN, None)], crc32=zlib.crc32(WRITTEN))
    assert body == WRITTEN
    assert [request.get("Range") for request in s3.requests] == [None, "bytes=4-"]


async def test_a_range_is_checked_by_its_own_checksum() -> None:
    s3, file = S3((WRITTEN, None)), io.BytesIO()
    assert await download(s3, PLACE, file, start=0, end=len(WRITTEN), crc32=zlib.crc32(WRITTEN)) == len(WRITTEN)


async def test_an_object_that_holds_other_bytes_is_named_with_both_checksums() -> None:
    s3 = S3((DAMAGED, None))
    with pytest.raises(TaskError) as failed:
        await download(s3, PLACE, io.BytesIO(), crc32=zlib.crc32(WRITTEN))
    error = failed.value
    assert (error.type, error.retryable, error.gone, len(s3.requests)) == ("input_changed", False, (PLACE,), 2)
    for part in (PLACE.uri, f"{zlib.crc32(WRITTEN):08x}", f"{zlib.crc32(DAMAGED):08x}"):
        assert part in error.message


async def test_without_a_checksum_nothing_is_checked() -> None:
    body, s3 = await fetch([(DAMAGED, None)])
    assert (body, len(s3.requests)) == (DAMAGED, 1)


@pytest.mark.parametrize(
    ("code", "type", "is_gone"),
    [
        ("NoSuchKey", "input_missing", True),
        ("InvalidObjectState", "input_missing", True),
        ("PreconditionFailed", "input_changed", True),
        ("InvalidRange", "input_changed", True),
        ("AccessDenied", "input_forbidden", False),
        ("KMS.DisabledException", "input_forbidden", False),
    ],
)
async def test_what_s3_refuses_fails_at_once_whether_it_is_gone_or_not(code: str, type: str, is_gone: bool) -> None:
    class Refusing(Client):
        async def get_object(self, **request: Any) -> None:
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, "GetObject")

    with pytest.raises(TaskError) as failed:
        await download(Refusing(), PLACE, io.BytesIO())
    error = failed.value
    assert (error.type, error.gone, error.retryable) == (type, (PLACE,) if is_gone else (), False)
    if not is_gone:
        assert f"{PLACE.uri}: ClientError" in error.message and "s3:ListBucket" in error.message


async def test_an_output_that_may_not_be_written_fails_at_once_and_says_what_is_needed() -> None:
    class Refusing(Client):
        async def put_object(self, **request: Any) -> None:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")

    with tempfile.TemporaryFile() as file, pytest.raises(TaskError, match="needs s3:PutObject") as failed:
        await upload(Refusing(), file, PLACE)
    assert (failed.value.type, failed.value.retryable) == ("output_forbidden", False)
