"""`piecework split`: what is asked for a preview, and how it is shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.conftest import Run, Service, answer

PARTS = [
    ({"type": "bytes", "uri": "s3://b/a.csv", "start": 5, "end": 105}, 100, "s3://b/a.csv bytes 5-104"),
    ({"type": "row_groups", "uri": "s3://b/a.parquet", "first": 2, "count": 3}, None, "row groups 2-4"),
    ({"type": "numbered_blocks", "uri": "s3://b/a.orc", "first": 4, "count": 2}, 9, "s3://b/a.orc numbered blocks 4-5"),
    ({"type": "byte_range", "uri": "s3://b/a.xml", "start": 5, "end": 9}, 4, "s3://b/a.xml bytes 5-8"),
    ({"type": "blocks", "uri": "s3://b/a.csv.zst", "start": [5, 7], "end": [9, 3]}, None, "s3://b/a.csv.zst"),
    ({"type": "objects", "objects": [{"uri": "s3://b/a"}, {"uri": "s3://b/b"}]}, 7, "s3://b/a and 1 more"),
    ({"type": "object_version", "uri": "s3://b/a", "version": "v1"}, None, "s3://b/a version v1"),
    ({"type": "index", "count": 9}, None, "index 7 of 9"),
    ({"type": "array_index", "number": 29, "count": 9}, None, "number 29, index 8 of 9"),
]


@pytest.fixture
def previewing(service: Service) -> Service:
    parts = [{"index": number, "bytes": size, "input": input} for number, (input, size, _) in enumerate(PARTS)]
    found = {"count": 16384, "bytes": 10**12, "exact": False, "notes": ["estimated"], "part_bytes": 1048576}
    found["columns"] = None
    service.on("POST", "/v1/splits", answer({**found, "parts": parts}))
    return service


def asked(service: Service) -> Any:
    [request] = service.requests("POST", "/v1/splits")
    return request.body


def test_a_preview_is_a_table_and_a_summary(run: Run, previewing: Service) -> None:
    result = run("split", "--input", "s3://b/a.csv.gz", "--parts", "9", "--multiline", "--show", "8", "--pool", "big")

    assert result.exit_code == 0, result.stderr
    assert asked(previewing) == {
        "input": {"type": "lines", "uri": "s3://b/a.csv.gz", "format": "csv", "parts": 9, "multiline": True},
        "pool": "big",
        "parts_max": 8,
    }
    lines = result.stdout.splitlines()
    assert len(lines) == 10
    assert all(place in line for line, (_, _, place) in zip(lines[1:], PARTS, strict=True))
    assert result.stderr.splitlines() == ["about 16,384 parts of 931.3 GiB, aiming at 1.0 MiB each", "estimated"]
    assert json.loads(run("--json", "split", "--count", "3").stdout)["count"] == 16384


def test_the_input_and_the_pool_may_be_a_job_files(run: Run, previewing: Service, tmp_path: Path) -> None:
    source = [{"type": "range", "count": 3}, {"type": "items", "items": [1]}]
    (tmp_path / "job.json").write_text(json.dumps({"input": source, "stages": [{"processor": "p", "pool": "big"}]}))

    assert run("split", str(tmp_path / "job.json")).exit_code == 0
    assert asked(previewing) == {"input": source, "pool": "big", "parts_max": 20}


def test_something_must_be_there_to_split(run: Run, previewing: Service) -> None:
    result = run("split")
    assert result.exit_code != 0 and "nothing to split" in result.stderr
