"""What people do when some of their files fail: take what is there, fix the code, run the rest, and go on tomorrow."""

import json
from pathlib import Path
from typing import Any

from piecework.watch import wait_for_job
from tests.cases.conftest import CaseGrid

BROKEN = "def price(item):\n    return item['amount'] * item.get('rate') + 0\n"
FIXED = "def price(item):\n    return item['amount'] * item.get('rate', 1) + 0\n"


def register(grid: CaseGrid, name: str, code: str, **spec: Any) -> None:
    package = grid.client.push_package({"prices.py": code.encode()})
    grid.client.register_processor(name, {"package": package["sha256"], **spec})


def versions(grid: CaseGrid, job_id: str) -> list[str]:
    return [task["processor"] for task in grid.client.list_tasks(job_id, stage=0)]


def test_a_function_is_fixed_and_only_what_failed_runs_with_the_fix(grid: CaseGrid) -> None:
    register(grid, "price", BROKEN, function="prices:price")
    items = [{"amount": amount, "rate": 2} for amount in range(6)]
    del items[4]["rate"]
    stage = {"processor": "price", "retry": {"max_attempts": 1}, "tolerated_failures": 1}
    job_id = grid.submit({"type": "items", "items": items}, stage)
    assert grid.ended(job_id).job["stages"][0]["progress"]["failed"] == 1
    register(grid, "price", FIXED, function="prices:price")

    grid.command("retry", job_id, "--latest")

    ended = grid.ended(job_id)
    assert (ended.state, ended.job["warnings"]) == ("succeeded", [])
    assert [task["output"]["value"] for task in ended.tasks] == [0, 2, 4, 6, 4, 10]
    assert versions(grid, job_id) == ["price@1"] * 4 + ["price@2", "price@1"]


def test_a_job_that_failed_gives_what_it_has_and_goes_on_with_a_replaced_file(grid: CaseGrid, tmp_path: Path) -> None:
    command = ["sh", "-c", "grep -q good {input} && cp {input} {output}"]
    grid.client.register_processor("picky", {"command": command, "output": "photo.txt"})
    prefix = grid.put({"1.txt": "good one", "2.txt": "bad two", "3.txt": "good three"})
    stage = {"processor": "picky", "retry": {"max_attempts": 1}, "running_max": 1}
    job_id = grid.submit({"type": "objects", "prefix": prefix}, stage)
    assert wait_for_job(grid.client, job_id)["state"] == "failed"

    grid.command("results", job_id, "--partial", "--download", str(tmp_path))

    assert (tmp_path / "00000000.txt").read_text() == "good one"
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [(each["index"], each["state"]) for each in manifest["missing"]] == [(1, "failed"), (2, "cancelled")]
    grid.s3.put_object(Bucket=grid.bucket, Key=prefix.removeprefix(f"s3://{grid.bucket}/") + "2.txt", Body=b"good 2")
    grid.command("retry", job_id, "--accept-changed")
    ended = grid.ended(job_id)
    assert ended.state == "succeeded"
    assert [ended.files[f"0000000{index}.txt"] for index in range(3)] == [b"good one", b"good 2", b"good three"]


def test_a_whole_stage_runs_again_and_the_merge_has_only_the_new(grid: CaseGrid) -> None:
    first, second = (["sh", "-c", f"sed s/^/{mark}/ {{input}} > {{output}}"] for mark in "xy")
    grid.client.register_processor("mark", {"command": first, "output": "out.txt"})
    uri = grid.put({"a.txt": "1\n2\n"}) + "a.txt"
    merge = {"type": "concat", "filename": "all.txt"}
    job_id = grid.submit({"type": "lines", "uri": uri}, "mark", {"name": "copy", "processor": "case-copy"}, merge=merge)
    assert grid.ended(job_id).files["all.txt"] == b"x1\nx2\n"
    grid.client.register_processor("mark", {"command": second, "output": "out.txt"})

    grid.command("retry", job_id, "--stage", "stage-0", "--with", "mark")

    assert grid.ended(job_id).files["all.txt"] == b"y1\ny2\n"


def test_tomorrow_only_what_is_new_runs(grid: CaseGrid) -> None:
    command = ["sh", "-c", "date +%N > {output}; cat {input} >> {output}"]
    grid.client.register_processor("stamp", {"command": command, "output": "stamp.txt"})
    prefix = grid.put({"1.txt": "one", "2.txt": "two"})
    today = grid.run({"type": "objects", "prefix": prefix}, "stamp", reuse=True)
    grid.s3.put_object(Bucket=grid.bucket, Key=prefix.removeprefix(f"s3://{grid.bucket}/") + "0.txt", Body=b"new")

    job_id = grid.command("submit", "--again", today.job["job_id"], "--set", "name=tomorrow").strip()

    tomorrow = grid.ended(job_id)
    assert (tomorrow.state, tomorrow.job["name"]) == ("succeeded", "tomorrow")
    assert tomorrow.files["00000000.txt"].endswith(b"new")
    assert [tomorrow.files[f"0000000{index + 1}.txt"] for index in (0, 1)] == [
        today.files[f"0000000{index}.txt"] for index in (0, 1)
    ]
    assert "reused: made by task 0 0" in grid.command("task", job_id, "0", "1")
