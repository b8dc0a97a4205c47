"""Manifests: what they list becomes tasks in their order, whatever they are written in, and however large they are."""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from services.inputs.chunk import SplitError
from services.inputs.manifest import rows as manifest_rows
from services.inputs.manifest import split as manifest
from services.platform.aws import Aws
from tests.integration.inputs.conftest import split_all
from tests.integration.scheduler.conftest import Bucket

KEYS = [f"scans/ä {number:03}.tif" for number in range(50)]
CSV = "".join(f'data,"{key}"\n' for key in KEYS)
JSONL = "".join(json.dumps({"uri": f"s3://data/{key}"}) + "\n" for key in KEYS)


def parquet(columns: dict[str, list[Any]]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink, row_group_size=7)
    return sink.getvalue()


async def listed(aws: Aws, uri: str, **options: Any) -> list[str]:
    tasks = await split_all(aws, type="manifest", uri=uri, **options)
    assert {task["type"] for task in tasks} == {"object"}
    return [task["uri"].removeprefix("s3://data/") for task in tasks]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.csv", b"\xef\xbb\xbfbucket,key\r\n" + CSV.encode()),
        ("m.csv.gz", gzip.compress(CSV.encode())),
        ("m.jsonl", JSONL.encode().rstrip()),
        ("m.parquet", parquet({"bucket": ["data"] * 50, "x": [b"1"] * 50, "key": KEYS})),
    ],
)
async def test_a_manifest_in_any_format_of_many_pages(
    aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes
) -> None:
    monkeypatch.setattr(manifest_rows, "PAGE_BYTES", 200)
    monkeypatch.setattr(manifest, "TASKS_PER_CHUNK", 3)
    uri = await bucket.put(name, data)

    assert await listed(aws, uri) == KEYS
    assert await listed(aws, uri, include="scans/*0.tif", exclude="*020*") == [
        key for key in KEYS if key.endswith("0.tif") and "020" not in key
    ]
    tasks = await split_all(aws, type="manifest", uri=uri, objects_per_task=12)
    assert [len(task["objects"]) for task in tasks] == [12, 12, 12, 12, 2]
    assert [o["uri"] for task in tasks for o in task["objects"]] == [f"s3://data/{key}" for key in KEYS]


@pytest.mark.parametrize("format", ["CSV", "Parquet"])
async def test_an_inventory_tells_etags_and_leaves_out_what_is_gone(aws: Aws, bucket: Bucket, format: str) -> None:
    rows = [("data", "a+b%3F.txt" if format == "CSV" else "a b?.txt", 3, "e1", "true", "false")]
    rows += [("data", "old", 1, "e2", "false", "false"), ("data", "gone", 1, "e3", "true", "true")]
    files = []
    for number in range(2):
        if format == "CSV":
            text = "".join(",".join(f'"{value}"' for value in row) + "\n" for row in rows)
            key, data = f"inventory/data/{number}.csv.gz", gzip.compress(text.encode())
        else:
            names = ("bucket", "key", "size", "e_tag", "is_latest", "is_delete_marker")
            columns = {name: [row[number] for row in rows] for number, name in enumerate(names)}
            key, data = f"inventory/data/{number}.parquet", parquet(columns)
        await bucket.put(key, data)
        files.append({"key": key, "size": len(data)})
    schema = "Bucket, Key, Size, ETag, IsLatest, IsDeleteMarker"
    content = {"destinationBucket": f"arn:aws:s3:::{bucket.name}", "fileFormat": format, "fileSchema": schema}
    uri = await bucket.put("inventory/manifest.json", json.dumps(content | {"files": files}).encode())

    expected = {"type": "object", "uri": "s3://data/a b?.txt", "etag": '"e1"', "bytes": 3}
    assert await split_all(aws, type="manifest", uri=uri) == [expected, expected]


@pytest.fixture
def usual_csv_limit() -> Iterator[None]:
    """That of the services; the worker's readers, which another test may have loaded, raise it in this process."""
    before = csv.field_size_limit(131_072)
    yield
    csv.field_size_limit(before)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("m.csv", b"data,a\nb\n", "row 2 after byte 0 names no object"),
        ("m.jsonl", b'{"uri": "s3://data/a"}\n[]\n', "row 2 after byte 0 names no object"),
        ("m.jsonl", b"{", "row 1 after byte 0 names no object"),
        ("m.csv.gz", gzip.compress(CSV.encode())[:-9], "truncated"),
        ("m.csv", b"a" * 6_000_000, "the row after byte 0 is longer than 1048576 bytes"),
        ("m.csv.gz", gzip.compress(b"a" * 100_000_000), "the row after byte 0 is longer than 1048576 bytes"),
        ("m.csv", b'data,"' + b"a" * 200_000, "field larger than field limit"),
        ("m.parquet", b"PAR1", "not a Parquet file"),
        ("m.bin", b"", "can't tell the format"),
        ("m.csv", b"", "no object in .* matches"),
        ("manifest.json", b"{}", "not the manifest.json of an S3 Inventory"),
    ],
)
@pytest.mark.usefixtures("usual_csv_limit")
async def test_what_is_not_a_manifest_is_refused_with_the_reason(
    aws: Aws, bucket: Bucket, name: str, data: bytes, why: str
) -> None:
    uri = await bucket.put(name, data)
    with pytest.raises(SplitError, match=why) as refused:
        await split_all(aws, type="manifest", uri=uri)
    assert uri in str(refused.value)
