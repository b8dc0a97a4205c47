"""Which file is this? Tasks, results, errors and rejects name the object of the input that they are made of."""

import json
from typing import Any

import pytest

from tests.cases.conftest import CaseGrid

SHOW = (
    "import json, os, sys; names = ('URI', 'KEY', 'FILENAME', 'STEM', 'PART', 'OBJECTS'); "
    "found = {name: os.environ.get('PIECEWORK_INPUT_' + name) for name in names}; "
    "found['files'] = json.load(open(os.environ['PIECEWORK_INPUT_SOURCES'])) "
    "if 'PIECEWORK_INPUT_SOURCES' in os.environ else None; "
    "open(sys.argv[1], 'w').write(json.dumps(found) + '\\n')"
)


@pytest.fixture(scope="module")
def show(grid: CaseGrid) -> str:
    """A processor that writes what it is told of its source."""
    grid.client.register_processor("names-show", {"command": ["python3", "-c", SHOW, "{output}"], "output": "x.jsonl"})
    return "names-show"


def manifest(grid: CaseGrid, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(grid.client.read_object(grid.client.get_results(job_id)["manifest"]["url"]))
    return found


def test_each_task_knows_its_file_in_every_stage(grid: CaseGrid, show: str) -> None:
    prefix = grid.put({"a/cat.png": "1", "b/cat.png": "2"})
    ended = grid.run({"type": "objects", "prefix": prefix}, "case-copy", show)
    uris = [f"{prefix}a/cat.png", f"{prefix}b/cat.png"]
    found = ended.records()
    assert [told["URI"] for told in found] == uris
    assert [told["KEY"] for told in found] == [uri.removeprefix(f"s3://{grid.bucket}/") for uri in uris]
    assert {(told["FILENAME"], told["STEM"], told["PART"], told["OBJECTS"]) for told in found} == {
        ("cat.png", "cat", None, None)
    }
    of_one = [{"uri": uri, "part": None, "objects": None} for uri in uris]
    assert [task["source"] for task in ended.tasks] == of_one * 2
    parts = manifest(grid, ended.job["job_id"])["parts"]
    assert [part["source"] for part in parts] == [{"uri": uri} for uri in uris]
    assert uris[1] in grid.command("tasks", ended.job["job_id"], "--stage", "1")


def test_parts_of_one_file_are_numbered(grid: CaseGrid, show: str) -> None:
    prefix = grid.put({"lines.txt": "1\n2\n3\n4\n" * 100, "more.txt": "5\n"})
    sources = [{"type": "lines", "uri": prefix + name, "parts": 3} for name in ("lines.txt", "more.txt")]
    found = grid.run(sources, "case-copy", show).records()
    assert [(told["FILENAME"], told["PART"]) for told in found] == [
        *(("lines.txt", str(part)) for part in range(3)),
        ("more.txt", "0"),
    ]


def test_a_group_tells_the_object_of_each_of_its_files(grid: CaseGrid, show: str) -> None:
    prefix = grid.put({"a.txt": "1", "b.csv": "2", "c.txt": "3"})
    ended = grid.run({"type": "objects", "prefix": prefix, "objects_per_task": 2}, show)
    first, second = ended.records()
    assert (first["URI"], first["OBJECTS"]) == (f"{prefix}a.txt", "2")
    assert first["files"] == {"00000000.txt": f"{prefix}a.txt", "00000001.csv": f"{prefix}b.csv"}
    assert second["files"] == {"00000000.txt": f"{prefix}c.txt"}


def test_an_array_has_no_files(grid: CaseGrid, show: str) -> None:
    ended = grid.run({"type": "range", "count": 1}, show)
    assert ended.records()[0]["URI"] is None
    assert ended.tasks[0]["source"] is None


def test_failed_parts_are_named_in_errors_and_in_the_manifest(grid: CaseGrid) -> None:
    copy_if_ok = "grep -q ok $PIECEWORK_INPUT && cp $PIECEWORK_INPUT $PIECEWORK_OUTPUT"
    grid.client.register_processor("names-strict", {"command": ["sh", "-c", copy_if_ok]})
    prefix = grid.put({"good.txt": "ok", "broken.txt": "no"})
    stage = {"processor": "names-strict", "retry": {"max_attempts": 1}}
    tolerant = grid.run({"type": "objects", "prefix": prefix}, stage | {"tolerated_failures": 1})
    found = manifest(grid, tolerant.job["job_id"])
    [failed] = found["failed"]
    assert (failed["stage"], failed["index"], failed["source"]) == (0, 0, {"uri": f"{prefix}broken.txt"})
    assert failed["error"]["type"] == "exit_code"
    assert [part["source"]["uri"] for part in found["parts"]] == [f"{prefix}good.txt"]
    job = grid.run({"type": "objects", "prefix": prefix}, stage).job
    assert job["error"] and f"task 0 ({prefix}broken.txt)" in job["error"]["message"]
    said = grid.command("watch", job["job_id"], fails=True)
    assert f"0 0 of {prefix}broken.txt: exit_code" in said


def test_a_reject_of_a_later_stage_names_the_file_of_the_input(grid: CaseGrid) -> None:
    grid.client.register_processor("names-typed", {"sql": "SELECT * FROM input"})
    prefix = grid.put({"numbers.csv": "n\n1\ntwo\n"})
    stage = {"processor": "names-typed", "columns": {"n": "int64"}}
    copy = {"processor": "case-copy"}
    [reject] = grid.run({"type": "objects", "prefix": prefix}, copy, stage).rejects()
    assert (reject["input"], reject["source"]["record"]) == (f"{prefix}numbers.csv", 2)
    [reject] = grid.run({"type": "objects", "prefix": prefix}, stage).rejects()
    assert reject["source"]["uri"] == f"{prefix}numbers.csv" and "input" not in reject
