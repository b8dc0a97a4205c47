"""Samples: the types of all records of an input, from a few reads."""

import gzip
import json
from typing import Any

import pytest

from services.contract.task_input import parse_input
from services.inputs import sample
from services.inputs.sample import find_columns, spread
from services.platform.aws import Aws
from tests.integration.inputs.conftest import split_all
from tests.integration.scheduler.conftest import Bucket


async def columns(aws: Aws, **source: Any) -> Any:
    inputs = [parse_input(part) for part in await split_all(aws, **source)]
    return await find_columns(aws.s3, [inputs[number] for number in spread(len(inputs))])


@pytest.mark.parametrize("suffix", ["", ".gz"])
async def test_objects_of_one_prefix_have_the_columns_of_all(aws: Aws, bucket: Bucket, suffix: str) -> None:
    pack = gzip.compress if suffix else bytes
    await bucket.put(f"in/a.jsonl{suffix}", pack(b'{"id": 1, "v": 1}\n'))
    await bucket.put(f"in/b.jsonl{suffix}", pack(b'{"id": 2, "v": 2.5, "late": null}'))
    uri = await bucket.put(f"in/c.json{suffix}", pack(b'[{"id": "x"}]'))
    found = await columns(aws, type="objects", prefix=uri.rpartition("/")[0] + "/", objects_per_task=2)
    assert found == {"id": "text", "v": "float64", "late": "json"}


async def test_what_a_large_input_holds_behind_its_beginning_is_found(
    aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "BYTES_MAX", 8192)
    lines = [json.dumps({"n": n if n < 4000 else n + 0.5, "text": "x" * 20}) for n in range(8000)]
    uri = await bucket.put("in.jsonl", "\n".join(lines).encode())
    for parts in (1, 7, 200):
        assert await columns(aws, type="lines", uri=uri, format="jsonl", parts=parts) == {
            "n": "float64",
            "text": "text",
        }


async def test_a_line_longer_than_a_sample_is_read_whole(
    aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "BYTES_MAX", 400)
    uri = await bucket.put("in.jsonl", b"".join(b'{"id": %d, "t": "%s"}\n' % (n, b"x" * 3000) for n in range(9)))
    assert await columns(aws, type="lines", uri=uri, format="jsonl", parts=1) == {"id": "int64", "t": "text"}


async def test_text_and_what_tells_its_columns(aws: Aws, bucket: Bucket) -> None:
    csv = await bucket.put("a.csv", b"1,x\n2,y\n")
    assert await columns(aws, type="lines", uri=csv, format="csv", header=False) == {
        "column0": "text",
        "column1": "text",
    }
    xml = await bucket.put("a.xml", b"<r><c id='1'><n>5</n></c><c><m/></c></r>")
    assert await columns(aws, type="xml", uri=xml, record_tag="c") == {"@id": "text", "n": "text", "m": "text"}
    assert await columns(aws, type="items", items=[{"a": 1}, {"a": None, "b": [1.5]}]) == {
        "a": "int64",
        "b": ["float64"],
    }
    assert await columns(aws, type="range", count=3) is None


async def test_samples_of_compressed_objects_have_a_limit_together(
    aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are all in memory at once."""
    sizes: list[int] = []

    def noting(*arguments: Any) -> bytes:
        text = original(*arguments)
        sizes.append(len(text))
        return text

    original = sample._decompressed
    monkeypatch.setattr(sample, "_decompressed", noting)
    data = gzip.compress((b'{"a": "' + b"x" * 100_000 + b'"}\n') * 160)
    for number in range(32):
        await bucket.put(f"bombs/{number}.jsonl.gz", data)

    assert await columns(aws, type="objects", prefix=f"s3://{bucket.name}/bombs/") == {"a": "text"}
    assert len(sizes) == 32
    assert sum(sizes) <= 8 * sample.BYTES_MAX
