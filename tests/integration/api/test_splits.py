"""Previews of splits: what is shown, what is an estimate, what is refused; and the same checks of a job's inputs."""

import gzip
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from services.inputs import ranges
from services.platform.aws import Aws
from services.platform.settings import Settings
from tests.integration.api.conftest import array_job, ok

pytestmark = pytest.mark.usefixtures("grid")

Put = Callable[[str, bytes], Awaitable[str]]
LINES = b"123456789\n" * 1000


@pytest.fixture
def put(aws: Aws, settings: Settings) -> Put:
    async def put(key: str, body: bytes) -> str:
        await aws.s3.put_object(Bucket=settings.bucket, Key=key, Body=body)
        return f"s3://{settings.bucket}/{key}"

    return put


async def test_a_preview_shows_the_first_parts_and_counts_all(
    submitter: httpx.AsyncClient, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = await put("in.txt", LINES)

    async def preview(input: Any, **more: Any) -> Any:
        return await ok(submitter.post("/v1/splits", json={"input": input, **more}))

    found = await preview({"type": "lines", "uri": uri, "part_bytes": 300}, parts_max=2)
    assert (found["count"], found["bytes"], found["exact"], found["part_bytes"]) == (34, 10_000, True, 300)
    assert [(part["index"], part["bytes"]) for part in found["parts"]] == [(0, 300), (1, 300)]
    assert found["parts"][1]["input"]["start"] == 300

    monkeypatch.setattr(ranges, "PARTS_PER_CHUNK", 10)
    found = await preview({"type": "lines", "uri": uri, "parts": 100}, parts_max=2)
    assert (found["count"], found["bytes"], found["exact"]) == (100, 10_000, False)
    assert "estimated from the size" in found["notes"][0]

    claims = await put("in.xml", b"<claims>" + b"<claim>x</claim>" * 100 + b"</claims>")
    found = await preview({"type": "xml", "uri": claims, "record_tag": "claim", "parts": 4}, parts_max=1)
    assert (found["count"], found["bytes"], found["exact"]) == (4, 1609, True)
    assert (found["parts"][0]["input"]["header"], found["parts"][0]["bytes"]) == ("<claims>", 416)

    zipped = await put("in.gz", gzip.compress(LINES))
    several = [{"type": "range", "count": 7}, {"type": "lines", "uri": zipped}, {"type": "items", "items": ["a"]}]
    found = await preview(several)
    assert (found["count"], found["exact"]) == (9, False)
    assert "a task reads the whole object" in found["notes"][0]
    assert [part["input"]["type"] for part in found["parts"]] == ["index"] * 7 + ["item"]


async def test_the_numbers_of_an_array_are_previewed(submitter: httpx.AsyncClient) -> None:
    array = {"type": "range", "start": 1, "stop": 101, "step": 4}
    found = await ok(submitter.post("/v1/splits", json={"input": array, "parts_max": 2}))
    assert (found["count"], found["exact"]) == (25, True)
    assert [part["input"] for part in found["parts"]] == [
        {"type": "array_index", "number": number, "count": 25} for number in (1, 5)
    ]


async def test_what_can_not_be_split_is_refused_by_a_preview_and_by_a_submission(
    submitter: httpx.AsyncClient, put: Put
) -> None:
    fixed = await put("in.dat", b"12345")
    utf16 = await put("in.csv", "a,b\n".encode("utf-16"))
    cases = [
        ({"type": "lines", "uri": fixed, "format": "fixed", "record_bytes": 2}, "not a multiple of record_bytes = 2"),
        ({"type": "lines", "uri": utf16, "format": "csv"}, "UTF-16"),
        ({"type": "lines", "uri": "s3://nowhere/a.gz"}, "there is no such"),
        ({"type": "arrow", "uri": fixed}, "not an Arrow IPC file"),
        ({"type": "orc", "uri": fixed}, "not an ORC file"),
        ({"type": "avro", "uri": fixed}, "not an Avro object container file"),
        ({"type": "manifest", "uri": fixed}, "can't tell the format"),
        ({"type": "xml", "uri": fixed, "record_tag": "claim"}, "can't be read as XML: byte 0: text outside"),
        ({"type": "xml", "uri": utf16, "record_tag": "claim"}, "UTF-16"),
    ]
    good = {"type": "range", "count": 1}
    for source, why in cases:
        for path, body in (("/v1/splits", {}), ("/v1/jobs", array_job())):
            for input, field in ((source, "input.uri"), ([good, source], "input.1.uri")):
                answer = await submitter.post(path, json={**body, "input": input})
                (error,) = answer.json()["errors"]
                assert (answer.status_code, error["field"], error["value"]) == (422, field, source["uri"])
                assert why in error["message"]


async def test_a_pool_that_is_not_there(submitter: httpx.AsyncClient) -> None:
    answer = await submitter.post("/v1/splits", json={"input": {"type": "range", "count": 1}, "pool": "none"})
    assert answer.json()["errors"][0]["field"] == "pool"
