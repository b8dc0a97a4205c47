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
