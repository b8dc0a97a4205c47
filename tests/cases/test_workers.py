"""Tasks run as a machine of their own would run them."""

import re

import pytest

from tests.cases.conftest import CaseGrid


@pytest.mark.parametrize("way", ["exit", "return"])
def test_fork_falls_through(grid: CaseGrid, way: str) -> None:
    grid.push("fork-falls-through")
    merge = {"type": "concat", "filename": "all.jsonl"}
    ended = grid.run({"type": "range", "count": 6}, f"case-fork-{way}", merge=merge)
    if way == "exit":
        assert re.findall(rb'"index":(\d)', ended.files["all.jsonl"]) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    else:
        assert ended.state == "failed"
        assert ended.error.startswith("the function returned in a child process that it had forked")
        assert ended.attempts == 1


def test_last_line_is_a_progress_bar(grid: CaseGrid) -> None:
    grid.push("last-line-is-a-progress-bar")
    ended = grid.run_file("last-line-is-a-progress-bar/job.yaml")
    assert ended.error == "exit code 3: Conversion failed: disk quota of codec exceeded"
    assert grid.log(ended, 0, 0).count("\r") == 102, "the log itself is as it was printed"
