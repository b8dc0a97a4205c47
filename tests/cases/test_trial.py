"""A task of the grid runs here: with its input, its code and its environment, in seconds."""

import json
import time
from pathlib import Path

import pytest

from piecework.errors import ApiError, NotFound, TransferError
from piecework.watch import wait_for_job
from tests.cases.conftest import CaseGrid


def test_a_failed_task_is_tried_here_until_it_is_fixed(grid: CaseGrid, tmp_path: Path) -> None:
    script = (
        "echo reading $PIECEWORK_INPUT_FILENAME in $PIECEWORK_STAGE_NAME; grep -q WORD {input} && cp {input} {output}"
    )
    broken = {"command": ["sh", "-c", script.replace("WORD", "absent")], "output": "{input.stem}.out"}
    grid.client.register_processor("trial-find", broken)
    prefix = grid.put({"a/one.txt": "here", "b/two.txt": "also here"})
    stage = {"processor": "trial-find", "retry": {"max_attempts": 1}, "name": "find"}
    job_id = grid.run({"type": "objects", "prefix": prefix}, stage).job["job_id"]
    trying = ("try", "--job", job_id, "--task", "0/1")
    said = grid.command(*trying, "--out", str(tmp_path / "first"), fails=True)
    assert "reading two.txt in find" in said and "failed after" in said and "exit_code: exit code 1" in said

    fixed = {"command": ["sh", "-c", script.replace("WORD", "here")], "output": "{input.stem}.out"}
    grid.client.register_processor("trial-find", fixed)
    answer = json.loads(grid.command(*trying, "trial-find", "--out", str(tmp_path / "second"), "--json"))
    assert answer["outcome"] == "succeeded"
    assert (tmp_path / "second" / "named" / "two.out").read_text() == "also here"
    assert (tmp_path / "second" / "log.txt").read_text() == "reading two.txt in find\n"
    assert grid.client.get_task(job_id, 0, 1)["attempt"] == 1, "the grid learns nothing of it"


def test_functions_with_their_package_and_declared_inputs_are_tried(grid: CaseGrid, tmp_path: Path) -> None:
    code = tmp_path / "pkg"
    (code / "processors").mkdir(parents=True)
    (code / "trials.py").write_text(
        "import os\n"
        "def price(input, output, fees, rate):\n"
        "    fee = float(fees.read_text())\n"
        "    output.write_text(str(float(input.read_text()) * rate + fee) + os.environ['PIECEWORK_INPUT_STEM'])\n"
    )
    fees = grid.put({"fees.txt": "0.5"})
    (code / "processors" / "trial-price.yaml").write_text(
        f"callable: trials:price\noutput: out.txt\ninputs: {{fees: {fees}fees.txt}}\n"
    )
    grid.command("processors", "push", str(code))
    prefix = grid.put({"x.txt": "2"})
    stage = {"processor": "trial-price", "params": {"rate": 3}}
    ended = grid.run({"type": "objects", "prefix": prefix}, "case-copy", stage)
    assert ended.lines() == ["6.5x"]
    out = tmp_path / "out"
    said = grid.command("try", "--job", ended.job["job_id"], "--task", "1/0", "--out", str(out))
    assert str(out / "out.txt") in said
    assert (out / "out.txt").read_text() == "6.5x"


@pytest.mark.parametrize(
    ("input", "processor", "lines"),
    [
        ({"type": "lines", "format": "csv", "parts": 3}, "trial-sql", ['{"n":2}']),
        ({"type": "objects", "objects_per_task": 2}, "trial-count", ["2"]),
    ],
)
def test_parts_and_groups_are_fetched_by_links(
    grid: CaseGrid, tmp_path: Path, input: dict[str, str], processor: str, lines: list[str]
) -> None:
    grid.client.register_processor("trial-sql", {"sql": "SELECT CAST(n AS INTEGER) AS n FROM input"})
    grid.client.register_processor(
        "trial-count", {"command": ["sh", "-c", "ls {input} | wc -l | tr -d ' ' > {output}"]}
    )
    prefix = grid.put({"a.csv": "n\n1\n2\n3\n", "b.csv": "n\n4\n"})
    of = {"uri": f"{prefix}a.csv"} if input["type"] == "lines" else {"prefix": prefix}
    job_id = grid.run(input | of, processor).job["job_id"]
    index = 1 if input["type"] == "lines" else 0
    out = tmp_path / "out"
    grid.command("try", "--job", job_id, "--task", f"0/{index}", "--out", str(out))
    [made] = [path for path in out.iterdir() if path.name != "log.txt"]
    assert made.read_text().split() == lines


def test_what_can_not_be_tried_says_why(grid: CaseGrid, tmp_path: Path) -> None:
    job_id = grid.run({"type": "objects", "prefix": grid.put({"a": "1"})}, "case-copy").job["job_id"]
    with pytest.raises(ApiError, match="no such processor"):
        grid.client.get_task_trial(job_id, 0, 0, processor="nobody")
    with pytest.raises(ApiError, match="there is no task 0/7"):
        grid.client.get_task_trial(job_id, 0, 7)
    said = grid.command("try", "--job", job_id, "--task", "x", fails=True)
    assert "is not STAGE/INDEX" in said
    (tmp_path / "full").write_text("")
    said = grid.command("try", "--job", job_id, "--task", "0/0", "--out", str(tmp_path), fails=True)
    assert "is not empty" in said


def test_the_log_of_a_running_task_is_followed(grid: CaseGrid) -> None:
    grid.client.register_processor("trial-endless", {"command": ["sh", "-c", "echo started; exec sleep 600"]})
    job_id = grid.submit({"type": "objects", "prefix": grid.put({"a": "1"})}, "trial-endless")
    read = ""
    deadline = time.monotonic() + 60
    while read != "started\n":
        assert time.monotonic() < deadline, read
        time.sleep(0.5)
        try:
            log = grid.client.get_task_log(job_id, 0, 0, live=True)
            assert log["running"] is True
            read = grid.client.read_object(log["url"]).decode()
        except (NotFound, TransferError):
            continue
    grid.client.cancel_job(job_id)
    wait_for_job(grid.client, job_id)
    grid.command("logs", job_id, "0", "0", "--follow")
