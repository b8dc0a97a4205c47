"""Which file is this? Tasks, results, errors and rejects name the object of the input that they are made of."""

import json
from pathlib import Path
from typing import Any

import pytest

from piecework.errors import ApiError
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


def test_the_logs_of_a_job_are_those_of_its_failed_tasks(grid: CaseGrid) -> None:
    script = "echo reading $PIECEWORK_INPUT_FILENAME; grep -q ok $PIECEWORK_INPUT || { echo not ok; exit 1; }"
    grid.client.register_processor("names-grep", {"command": ["sh", "-c", script]})
    prefix = grid.put({"broken.txt": "no", "good.txt": "ok", "worse.txt": "no"})
    stage = {"processor": "names-grep", "retry": {"max_attempts": 1}, "tolerated_failures": 2}
    job_id = grid.run({"type": "objects", "prefix": prefix}, stage).job["job_id"]
    first, _, second = grid.command("logs", job_id).partition("\n\n")
    assert first.splitlines()[0].startswith(f"==> task 0 0 of {prefix}broken.txt: exit_code: exit code 1")
    assert first.splitlines()[1:] == ["reading broken.txt", "not ok"]
    assert second.splitlines()[1:] == ["reading worse.txt", "not ok"]
    logs = json.loads(grid.command("logs", job_id, "0", "--limit", "1", "--json"))["items"]
    assert [(log["task"]["index"], log["text"]) for log in logs] == [(0, "reading broken.txt\nnot ok\n")]
    [kind] = grid.client.list_failures(job_id)["items"]
    assert (kind["tasks"], kind["source"]) == (2, {"uri": f"{prefix}broken.txt", "part": None, "objects": None})
    kinds = grid.command("failures", job_id)
    assert kind["fingerprint"] in kinds and f"{prefix}broken.txt" in kinds
    assert f"{prefix}worse.txt" in grid.command("tasks", job_id, "--error", kind["fingerprint"])


def test_a_reject_of_a_later_stage_names_the_file_of_the_input(grid: CaseGrid) -> None:
    grid.client.register_processor("names-typed", {"sql": "SELECT * FROM input"})
    prefix = grid.put({"numbers.csv": "n\n1\ntwo\n"})
    stage = {"processor": "names-typed", "columns": {"n": "int64"}}
    copy = {"processor": "case-copy"}
    [reject] = grid.run({"type": "objects", "prefix": prefix}, copy, stage).rejects()
    assert (reject["input"], reject["source"]["record"]) == (f"{prefix}numbers.csv", 2)
    [reject] = grid.run({"type": "objects", "prefix": prefix}, stage).rejects()
    assert reject["source"]["uri"] == f"{prefix}numbers.csv" and "input" not in reject


@pytest.fixture(scope="module")
def named(grid: CaseGrid) -> str:
    """A processor that names its output after its input."""
    spec = {"command": ["cp", "{input}", "{output}"], "output": "{input.stem}.jpg"}
    grid.client.register_processor("names-named", spec)
    return "names-named"


def test_results_have_the_names_and_folders_of_their_files(grid: CaseGrid, named: str, tmp_path: Path) -> None:
    prefix = grid.put({"2025/cat.png": "1", "2026/cat.png": "2", "log.png": "3"})
    for stages in ((named,), ("case-copy", named)):
        ended = grid.run({"type": "objects", "prefix": prefix}, *stages)
        names = ["2025/cat.jpg", "2026/cat.jpg", "log.jpg"]
        assert (ended.state, sorted(ended.files)) == ("succeeded", names)
    grid.command("results", ended.job["job_id"], "--download", str(tmp_path))
    assert [(tmp_path / name).read_text() for name in names] == ["1", "2", "3"]


def test_of_two_tasks_that_name_their_outputs_alike_one_fails(grid: CaseGrid, named: str) -> None:
    prefix = grid.put({"cat.gif": "1", "cat.png": "2"})
    ended = grid.run({"type": "objects", "prefix": prefix}, {"processor": named, "retry": {"max_attempts": 2}})
    assert (ended.state, ended.error_code) == ("failed", "output_collision")
    assert "both name their output cat.jpg" in ended.error and "{input.filename}" in ended.error
    assert f"{prefix}cat.gif" in ended.error and f"{prefix}cat.png" in ended.error
    joined = grid.run({"type": "objects", "prefix": prefix}, named, merge={"type": "concat"})
    assert joined.state == "succeeded", "what is merged needs no names"


def test_names_stay_taken_when_a_part_of_a_stage_runs_again(grid: CaseGrid) -> None:
    keep = "grep -q ok {input} && cp {input} {output}"
    grid.client.register_processor("names-kept", {"command": ["sh", "-c", keep], "output": "{input.filename}"})
    prefix = grid.put({"1/cat.gif": "ok", "cat.gif": "ok", "cat.jpg": "no"})
    stage = {"processor": "names-kept", "retry": {"max_attempts": 1}}
    ended = grid.run({"type": "objects", "prefix": prefix}, stage)
    assert ended.state == "failed"
    spec = {"command": ["cp", "{input}", "{output}"], "output": "{input.stem}.gif"}
    grid.client.register_processor("names-kept", spec)

    grid.command("retry", ended.job["job_id"], "--latest")

    assert grid.ended(ended.job["job_id"]).error_code == "output_collision"


def test_names_are_free_again_when_a_whole_stage_runs_again(grid: CaseGrid) -> None:
    copy = {"command": ["cp", "{input}", "{output}"]}
    grid.client.register_processor("names-again", copy | {"output": "{input.stem}.jpg"})
    prefix = grid.put({"bee.gif": "1", "cat.gif": "2"})
    ended = grid.run({"type": "objects", "prefix": prefix}, "case-copy", "names-again")
    job_id, names = ended.job["job_id"], ["bee.jpg", "cat.jpg"]
    assert sorted(ended.files) == names

    grid.s3.put_object(Bucket=grid.bucket, Key=prefix.removeprefix(f"s3://{grid.bucket}/") + "ape.gif", Body=b"0")
    grid.command("retry", job_id, "--stage", "0", "--accept-changed")
    ended = grid.ended(job_id)
    assert (ended.state, sorted(ended.files)) == ("succeeded", ["ape.jpg", *names]), ended.error

    prefix = grid.put({"cat.gif": "1", "cat.jpg": "2"})
    ended = grid.run({"type": "objects", "prefix": prefix}, "names-again")
    assert ended.error_code == "output_collision"

    grid.client.register_processor("names-again", copy | {"output": "{input.filename}"})
    grid.command("retry", ended.job["job_id"], "--stage", "0", "--latest")
    ended = grid.ended(ended.job["job_id"])
    assert (ended.state, sorted(ended.files)) == ("succeeded", ["cat.gif", "cat.jpg"]), ended.error


def test_an_index_or_a_part_tells_outputs_apart(grid: CaseGrid) -> None:
    for marker, names in (("{index}", ["a-0.txt", "a-1.txt"]), ("{input.part}", ["a-0.txt", "a-1.txt"])):
        spec = {"command": ["cp", "{input}", "{output}"], "output": f"{{input.stem}}-{marker}.txt"}
        grid.client.register_processor("names-parts", spec)
        prefix = grid.put({"a.txt": "1\n2\n"})
        ended = grid.run({"type": "lines", "uri": f"{prefix}a.txt", "parts": 2}, "names-parts")
        assert sorted(ended.files) == names


def test_a_name_after_a_file_is_refused_where_there_is_none(grid: CaseGrid, named: str) -> None:
    for input in ({"type": "range", "count": 2}, {"type": "items", "items": [1]}):
        with pytest.raises(ApiError, match="the job's input has no files"):
            grid.submit(input, named)
    with pytest.raises(ApiError, match="outputs of many tasks"):
        prefix = grid.put({"a": "1"})
        grid.submit({"type": "objects", "prefix": prefix}, "case-copy", merge={"type": "reduce", "processor": named})
    with pytest.raises(ApiError, match="names one file"):
        spec = {"command": ["true"], "output": "{input.stem}", "output_directory": True}
        grid.client.register_processor("names-many", spec)


def test_records_and_sql_get_the_suffix_of_their_format(grid: CaseGrid) -> None:
    grid.client.register_processor("names-sql", {"sql": "SELECT * FROM input", "output": "{input.stem}"})
    prefix = grid.put({"x/fees.v2.csv": "n\n1\n"})
    ended = grid.run({"type": "objects", "prefix": prefix}, "names-sql")
    assert list(ended.files) == ["x/fees.v2.jsonl"]
    prefix = grid.put({"rejects.csv": "n\n1\n"})
    ended = grid.run({"type": "objects", "prefix": prefix}, "names-sql")
    assert ended.error_code == "output_invalid"
    assert "'rejects.jsonl', made of " in ended.error and "can't be the name of a result" in ended.error
