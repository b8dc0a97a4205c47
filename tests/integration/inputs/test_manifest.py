"""Manifests: what they list becomes tasks in their order, whatever they are written in, and however large they are."""

import csv
import gzip
import io
import json
import random
from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.orc
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from services.inputs.chunk import SplitError
from services.inputs.manifest import rows as manifest_rows
from services.inputs.manifest import split as manifest
from services.inputs.split import split
from services.platform.aws import Aws
from services.platform.reads import PinnedObject
from tests.integration.inputs.conftest import INPUT, split_all
from tests.integration.scheduler.conftest import Bucket

KEYS = [f"scans/ä {number:03}.tif" for number in range(50)]
CSV = "".join(f'data,"{key}"\n' for key in KEYS)
JSONL = "".join(json.dumps({"uri": f"s3://data/{key}"}) + "\n" for key in KEYS)


def parquet(columns: dict[str, list[Any]]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink, row_group_size=7)
    return sink.getvalue()


def orc(columns: dict[str, list[Any]]) -> bytes:
    sink = io.BytesIO()
    pyarrow.orc.write_table(pyarrow.table(columns), sink, stripe_size=65_536, batch_size=1000, compression="zstd")
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


async def test_each_byte_of_a_compressed_manifest_is_read_once(
    aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From page to page, and from chunk to chunk, it goes on where it was."""
    read: list[int] = []

    async def counting(object_: PinnedObject, start: int, end: int) -> bytes:
        data = await original(object_, start, end)
        read.append(len(data))
        return data

    original = PinnedObject.read
    monkeypatch.setattr(PinnedObject, "read", counting)
    monkeypatch.setattr(manifest_rows, "PAGE_BYTES", 200)
    monkeypatch.setattr(manifest_rows, "_WINDOW_BYTES", 50)
    monkeypatch.setattr(manifest, "TASKS_PER_CHUNK", 3)
    data = gzip.compress(CSV.encode())
    uri = await bucket.put("once.csv.gz", data)
    read.clear()

    assert await listed(aws, uri) == KEYS
    assert sum(read) == len(data)


@pytest.mark.parametrize("format", ["CSV", "ORC", "Parquet"])
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
            key, write = f"inventory/data/{number}.{format}", orc if format == "ORC" else parquet
            data = write(columns)
        await bucket.put(key, data)
        files.append({"key": key, "size": len(data)})
    schema = "Bucket, Key, Size, ETag, IsLatest, IsDeleteMarker"
    content = {"destinationBucket": f"arn:aws:s3:::{bucket.name}", "fileFormat": format, "fileSchema": schema}
    uri = await bucket.put("inventory/manifest.json", json.dumps(content | {"files": files}).encode())

    expected = {"type": "object", "uri": "s3://data/a b?.txt", "etag": '"e1"', "bytes": 3}
    assert await split_all(aws, type="manifest", uri=uri) == [expected, expected]


ETAG = "d41d8cd98f00b204e9800998ecf8427e"
BY_VALUE = f"""data,a
data,b,{ETAG}
data,c,"""
BY_VALUE += f'"""{ETAG}-17"""'
BY_VALUE += """
data,d,PZ9ibn9D5lP6p298B7S9_ceqx1n5EJ0p
data,e%20f,null
data,g,
s3://data/h/i,3sL4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY+MTRCxf3vjVBH40Nr8X8gdRQBpUMLUo

"""


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
async def test_a_third_column_is_an_etag_or_a_version_by_its_form(aws: Aws, bucket: Bucket, line_end: str) -> None:
    uri = await bucket.put("m.csv", b"\xef\xbb\xbf" + BY_VALUE.replace("\n", line_end).encode())
    assert await split_all(aws, type="manifest", uri=uri) == [
        {"type": "object", "uri": "s3://data/a"},
        {"type": "object", "uri": "s3://data/b", "etag": f'"{ETAG}"'},
        {"type": "object", "uri": "s3://data/c", "etag": f'"{ETAG}-17"'},
        {"type": "object_version", "uri": "s3://data/d", "version": "PZ9ibn9D5lP6p298B7S9_ceqx1n5EJ0p"},
        {"type": "object_version", "uri": "s3://data/e f", "version": "null"},
        {"type": "object", "uri": "s3://data/g"},
        {"type": "object_version", "uri": "s3://data/h/i"}
        | {"version": "3sL4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY+MTRCxf3vjVBH40Nr8X8gdRQBpUMLUo"},
    ]


@pytest.mark.parametrize(
    ("header", "options"),
    [
        ("Key,VersionId,Bucket,Size,Owner\n", {}),
        ("", {"fields": ["key", "version_id", "bucket", "size", "ignore"]}),
        ("Bucket,Key,ETag,Size,Owner\n", {"fields": ["key", "version_id", "bucket", "size", "ignore"]}),
    ],
)
async def test_columns_are_those_that_the_job_or_the_header_line_names(
    aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, header: str, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(manifest_rows, "PAGE_BYTES", 20)
    uri = await bucket.put("m.csv", f"{header}a+b,v1,data,3,me\nc,{ETAG},data,0,me\nd,,data,,\n".encode())
    assert await split_all(aws, type="manifest", uri=uri, **options) == [
        {"type": "object_version", "uri": "s3://data/a b", "version": "v1", "bytes": 3},
        {"type": "object_version", "uri": "s3://data/c", "version": ETAG, "bytes": 0},
        {"type": "object", "uri": "s3://data/d"},
    ]
    [group] = await split_all(aws, type="manifest", uri=uri, objects_per_task=9, **options)
    assert group["type"] == "object_versions" and len(group["objects"]) == 3


@pytest.mark.both_emulators("GetObject", "HeadObject")
@pytest.mark.parametrize(
    ("present", "rows", "options", "keys"),
    [
        (["a b", "c"], ["c", "a%20b", "d+e"], {}, ["c", "a b", "d e"]),
        (["a+b", "c"], ["c", "a+b", "d+e%20"], {}, ["c", "a+b", "d+e%20"]),
        (["100%"], ["100%", "a b", "50%25"], {}, ["100%", "a b", "50%25"]),
        ([], ["a%20b", "d+e"], {}, ["a%20b", "d+e"]),
        (["a b"], ["a+b"], {"keys": "plain"}, ["a+b"]),
        (["a+b"], ["a+b"], {"keys": "url_encoded"}, ["a b"]),
        (["a+b", "a b"], ["a+b"], {"keys": "url_encoded"}, ["a b"]),
        (["a\ufffd"], ["a%FF", "a%20b"], {}, ["a%FF", "a%20b"]),
    ],
)
async def test_whether_keys_are_encoded_is_told_by_the_objects_that_exist(
    aws: Aws,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    present: list[str],
    rows: list[str],
    options: dict[str, Any],
    keys: list[str],
) -> None:
    """Once for all rows, also of later pages."""
    monkeypatch.setattr(manifest_rows, "PAGE_BYTES", 40)
    for key in present:
        await bucket.put(key, b"")
    uri = await bucket.put("m.csv", "".join(f"{bucket.name},{row}\n" for row in rows).encode())
    tasks = await split_all(aws, type="manifest", uri=uri, **options)
    assert [task["uri"] for task in tasks] == [f"s3://{bucket.name}/{key}" for key in keys]


async def test_two_objects_that_a_key_may_mean_are_not_guessed_between(aws: Aws, bucket: Bucket) -> None:
    for key in ("a+b", "a b"):
        await bucket.put(key, b"")
    uri = await bucket.put("m.csv", f"{bucket.name},c\n{bucket.name},a+b\n".encode())
    with pytest.raises(SplitError, match="both exist: say keys: plain or keys: url_encoded") as refused:
        await split_all(aws, type="manifest", uri=uri)
    assert str(refused.value).startswith(f"{uri}: ")


@pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov", "aws-iso"])
async def test_an_inventory_of_versions_in_any_partition(aws: Aws, bucket: Bucket, partition: str) -> None:
    rows = ["data,a%2Bb+c,v3,true,false,9,e3", "data,a%2Bb+c,v2,false,false,8,e2", "data,a%2Bb+c,v1,false,true,,"]
    await bucket.put("inventory/0.csv.gz", gzip.compress("\n".join(rows).encode()))
    content = {
        "sourceBucket": "data",
        "destinationBucket": f"arn:{partition}:s3:::{bucket.name}",
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, ETag",
        "files": [{"key": "inventory/0.csv.gz", "size": 100, "MD5checksum": "0"}],
    }
    uri = await bucket.put("inventory/manifest.json", json.dumps(content).encode())
    latest, old = (
        {"type": "object", "uri": "s3://data/a+b c", "etag": f'"e{n}"', "bytes": n + 6, "version": f"v{n}"}
        for n in (3, 2)
    )
    assert await split_all(aws, type="manifest", uri=uri) == [latest]
    assert await split_all(aws, type="manifest", uri=uri, versions="all") == [latest, old]


async def test_an_inventory_in_orc_is_read_stripe_by_stripe(aws: Aws, bucket: Bucket) -> None:
    noise = random.Random(1895)
    keys = [f"{number:06}-{noise.randbytes(20).hex()}" for number in range(10_000)]
    data = orc({"bucket": ["data"] * len(keys), "key": keys, "size": [7] * len(keys), "other": keys})
    assert pyarrow.orc.ORCFile(io.BytesIO(data)).nstripes > 3
    await bucket.put("inventory/0.orc", data)
    content = {"destinationBucket": f"arn:aws:s3:::{bucket.name}", "fileFormat": "ORC", "fileSchema": "struct<>"}
    files = [{"key": "inventory/0.orc", "size": len(data)}]
    uri = await bucket.put("inventory/manifest.json", json.dumps(content | {"files": files}).encode())
    assert await listed(aws, uri) == keys


async def test_a_manifest_that_an_older_scheduler_began_is_read_as_it_would(aws: Aws, bucket: Bucket) -> None:
    uri = await bucket.put("0.csv", b"data,a+b,e1\ndata,c,e2\n")
    files = [{"uri": uri, "etag": None, "size": 30, "format": "csv", "columns": ["Bucket", "Key", "ETag"]}]
    cursor = {"files": files, "file": 0, "row": 0, "skip": 1, "found": 1}
    source = INPUT.validate_python({"type": "manifest", "uri": uri})
    chunk = await split(aws.s3, source, cursor, 2)
    assert chunk.inputs == [{"type": "object", "uri": "s3://data/c", "etag": '"e2"'}]
    assert chunk.cursor["files"] == files


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
        ("m.csv", b"data,a%FF,v1\n", "row 1 after byte 0 names no object: 'utf-8' codec can't decode"),
        ("m.csv", b"arn:aws:s3:us-east-1:1:accesspoint/p,a\n", "is not a bucket: write the name of the bucket"),
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


async def test_fields_are_for_a_manifest_in_csv(aws: Aws, bucket: Bucket) -> None:
    uri = await bucket.put("m.jsonl", JSONL.encode())
    with pytest.raises(SplitError, match=r"fields are for a manifest in CSV, and .* is of format jsonl"):
        await split_all(aws, type="manifest", uri=uri, fields=["bucket", "key"])
    for fields in (["bucket"], ["key", "etag"], ["bucket", "key", "key"], []):
        with pytest.raises(ValidationError):
            await split_all(aws, type="manifest", uri=uri, fields=fields)
