"""`piecework results --partial`: the parts that are there, and what the job lacks."""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

from tests.unit.client.answers import JOB_ID, job, stage
from tests.unit.client.conftest import Answer, Run, Service, answer

PARTS = f"/v1/jobs/{JOB_ID}/results/parts"


def part(index: int, state: str = "succeeded", **changes: Any) -> dict[str, Any]:
    source = {"type": "object", "uri": f"s3://b/{index}.jpg"}
    empty = {"files": [], "value": None, "error": None}
    return {"stage": 0, "index": index, "state": state, "attempt": 1, "input": source} | empty | changes


def listed(service: Service) -> None:
    """A job of which one part is there, one has failed, one was cancelled."""
    body = b"a picture"
    file = {
        "name": "00000000.jpg",
        "uri": "s3://b/made.jpg",
        "bytes": len(body),
        "checksum_crc32": base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode(),
        "url": f"{service.url}/made.jpg",
    }
    why = {"type": "exit_code", "message": "not a picture"}
    parts = [part(0, files=[file]), part(1, "failed", error=why), part(2, "cancelled")]
    service.on("GET", f"/v1/jobs/{JOB_ID}", answer(job("failed", [stage(task_count=3)])))
    service.on(
        "GET",
        PARTS,
        answer({"items": parts[:2], "next_cursor": "x"}),
        answer({"items": parts[2:], "next_cursor": None}),
    )
    service.on("GET", "/made.jpg", Answer(content=body))


def test_the_parts_of_a_failed_job_are_downloaded_with_a_manifest_of_what_lacks(
    run: Run, service: Service, tmp_path: Path
) -> None:
    listed(service)

    done = run("results", JOB_ID, "--partial", "--download", str(tmp_path / "out"))

    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "00000000.jpg").read_bytes() == b"a picture"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["partial"], manifest["state"], manifest["tasks"]) == (True, "failed", 3)
    assert [(made["index"], made["files"][0]["name"]) for made in manifest["parts"]] == [(0, "00000000.jpg")]
    assert [(lacks["index"], lacks["state"], lacks["input"]["uri"]) for lacks in manifest["missing"]] == [
        (1, "failed", "s3://b/1.jpg"),
        (2, "cancelled", "s3://b/2.jpg"),
    ]
    assert "the job is failed: 1 of 3 parts are there; 1 cancelled, 1 failed" in done.stderr


def test_the_parts_are_listed_with_why_the_others_are_missing(run: Run, service: Service) -> None:
    listed(service)

    done = run("results", JOB_ID, "--partial")

    assert done.exit_code == 0, done.output
    assert "00000000.jpg" in done.stdout
    assert "not a picture" in done.stdout


def test_the_names_of_parts_are_those_of_their_files(run: Run, service: Service) -> None:
    listed(service)

    assert run("results", JOB_ID, "--partial", "-o", "name").stdout == "00000000.jpg\n"


def test_a_stage_needs_partial(run: Run) -> None:
    done = run("results", JOB_ID, "--stage", "0")

    assert done.exit_code != 0
    assert "add --partial" in done.stderr
