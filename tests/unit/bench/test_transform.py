"""What the Pool of the transform benchmark does must be what Piecework does: each line in one part."""

import json
from pathlib import Path

import pytest

from bench.suites.transform import transform_span


@pytest.mark.parametrize("part_bytes", [1, 7, 50, 64, 1000])
def test_each_line_is_transformed_once_and_in_order_however_the_file_is_cut(tmp_path: Path, part_bytes: int) -> None:
    claims = [
        {"claim": number, "member": " x ", "lines": [{"quantity": 2, "price": 1.5, "code": "7" * (number % 5)}]}
        for number in range(12)
    ]
    source = tmp_path / "claims.jsonl"
    source.write_text("".join(f"{json.dumps(claim)}\n" for claim in claims))
    records, results = 0, b""
    for start in range(0, source.stat().st_size, part_bytes):
        part = tmp_path / f"{start}.jsonl"
        records += transform_span((source, start, min(start + part_bytes, source.stat().st_size), part))
        results += part.read_bytes()
    assert records == len(claims)
    lines = [json.loads(line) for line in results.splitlines()]
    assert [(line["claim"], line["total"], line["member"]) for line in lines] == [(n, 3.0, "X") for n in range(12)]
