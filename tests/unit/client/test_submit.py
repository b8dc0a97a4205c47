"""`piecework submit`: what files and options make of a job, and what scripts get back."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.answers import JOB_ID, job
from tests.unit.client.conftest import Answer, Run, Service, answer, problem

NOOP = [{"processor": "noop"}]
SCHEDULE_ID = "01970000-0000-7000-8000-00000000000c"


@pytest.fixture
def accepting(service: Service) -> Service:
    service.on("POST", "/v1/jobs", answer(job(), 201))
    upload = {"upload_id": "u", "uri": "s3://b/uploads/u/claims.csv", "part_bytes": 5}
    part = {"number": 1, "bytes": 5, "url": f"{service.url}/part"}
    service.on("POST", "/v1/uploads", answer({**upload, "parts": [part]}, 201))
    service.on("PUT", "/part", Answer(headers={"etag": '"e"'}))
    service.on("POST", "/v1/uploads/u/complete", answer({"upload_id": "u", "uri": upload["uri"], "bytes": 5}))
    service.on("POST", "/v1/schedules", answer({"schedule_id": SCHEDULE_ID}, 201))
    return service


def submitted(service: Service) -> Any:
    [asked] = service.requests("POST", "/v1/jobs")
    return asked.body


# fmt: off
OPTIONS: list[tuple[list[str], dict[str, Any]]] = [
    (["--count", "10", "--processor", "noop"], {"input": {"type": "range", "count": 10}, "stages": NOOP}),
    (
        ["--item", "{region: north}", "--item", "7", "--item", "2026-01-31", "--stage", "noop"],
        {"input": {"type": "items", "items": [{"region": "north"}, 7, "2026-01-31"]}, "stages": NOOP},
    ),
    (
        ["--input", "s3://b/claims.csv", "--part-bytes", "8MiB", "--stage", "noop"],
        {
            "input": {"type": "lines", "uri": "s3://b/claims.csv", "format": "csv", "part_bytes": 8_388_608},
            "stages": NOOP,
        },
    ),
    (
        ["--input", "s3://b/claims.data", "--format", "jsonl", "--stage", "noop"],
        {"input": {"type": "lines", "uri": "s3://b/claims.data", "format": "jsonl"}, "stages": NOOP},
    ),
    (
        ["--input", "s3://b/claims.parquet", "--row-groups", "4", "--stage", "noop"],
        {"input": {"type": "parquet", "uri": "s3://b/claims.parquet", "row_groups": 4}, "stages": NOOP},
    ),
    (
        ["--input", "s3://b/scans/", "--include", "*.tif", "--stage", "noop"],
        {"input": {"type": "objects", "prefix": "s3://b/scans/", "include": ["*.tif"]}, "stages": NOOP},
    ),
    (
        ["--count", "1", "--stage", "clean=clean@2", "--stage", "sum", "--pool", "big",
         "--param", "clean.min=0.5", "--param", "1.by=[carrier, month]"],
        {
            "input": {"type": "range", "count": 1},
            "stages": [
                {"name": "clean", "processor": "clean@2", "pool": "big", "params": {"min": 0.5}},
                {"processor": "sum", "pool": "big", "params": {"by": ["carrier", "month"]}},
            ],
        },
    ),
    (
        ["--count", "1", "--stage", "noop", "--param", "a.b=", "--param", "flag=true"],
        {
            "input": {"type": "range", "count": 1},
            "stages": [{"processor": "noop", "params": {"a.b": "", "flag": True}}],
        },
    ),
    (
        ["--count", "1", "--stage", "noop", "--merge", "concat:all.csv", "--name", "nightly", "--share", "claims",
         "--priority", "-5", "--label", "team=claims", "--label", "month=2026-01"],
        {
            "name": "nightly",
            "input": {"type": "range", "count": 1},
            "stages": NOOP,
            "merge": {"type": "concat", "filename": "all.csv"},
            "share": "claims",
            "priority": -5,
            "labels": {"team": "claims", "month": "2026-01"},
        },
    ),
    (
        ["--count", "1", "--stage", "noop", "--merge", "reduce:sum@3"],
        {
            "input": {"type": "range", "count": 1},
            "stages": NOOP,
            "merge": {"type": "reduce", "processor": "sum@3"},
        },
    ),
    (
        ["--count", "1", "--stage", "noop", "--run-at", "2099-07-01T08:00", "--time-zone", "Europe/Berlin"],
        {"input": {"type": "range", "count": 1}, "stages": NOOP, "run_at": "2099-07-01T08:00:00+02:00"},
    ),
    (
        ["--count", "1", "--stage", "noop", "--run-at", "2099-07-01T08:00Z"],
        {"input": {"type": "range", "count": 1}, "stages": NOOP, "run_at": "2099-07-01T08:00:00+00:00"},
    ),
]
# fmt: on


@pytest.mark.parametrize(("options", "spec"), OPTIONS, ids=[" ".join(options) for options, _ in OPTIONS])
def test_options_make_a_job(options: list[str], spec: dict[str, Any], run: Run, accepting: Service) -> None:
    result = run("submit", *options)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{JOB_ID}\n", "")
    assert submitted(accepting) == spec


JOB_FILE = """
name: flights
input: {type: lines, uri: s3://b/flights.csv, format: csv, part_bytes: 1000}
stages:
  - name: clean
    processor: clean@1
    params: {since: 2026-01-31, strict: true}
labels: {team: claims}
"""


def test_a_file_is_sent_as_it_is(run: Run, accepting: Service) -> None:
    Path("job.yaml").write_text(JOB_FILE)
    assert run("submit", "job.yaml").stdout == f"{JOB_ID}\n"
    assert submitted(accepting) == {
        "name": "flights",
        "input": {"type": "lines", "uri": "s3://b/flights.csv", "format": "csv", "part_bytes": 1000},
        "stages": [{"name": "clean", "processor": "clean@1", "params": {"since": "2026-01-31", "strict": True}}],
        "labels": {"team": "claims"},
    }


def test_json_and_standard_input_are_read_too(run: Run, accepting: Service) -> None:
    spec = {"input": {"type": "range", "count": 1}, "stages": NOOP}
    Path("job.json").write_text(json.dumps(spec))
    run("submit", "job.json")
    run("submit", "-", input=json.dumps(spec))
    assert [asked.body for asked in accepting.requests("POST", "/v1/jobs")] == [spec, spec]


def test_options_change_a_file(run: Run, accepting: Service) -> None:
    Path("job.yaml").write_text(JOB_FILE)
    run("submit", "job.yaml", "--input", "s3://b/more.csv", "--param", "strict=no", "--label", "run=2", "--name", "x")
    spec = submitted(accepting)
    assert spec["name"] == "x"
    assert spec["input"] == {"type": "lines", "uri": "s3://b/more.csv", "format": "csv", "part_bytes": 1000}
    assert spec["stages"][0]["params"] == {"since": "2026-01-31", "strict": False}
    assert spec["labels"] == {"team": "claims", "run": "2"}


def test_a_local_input_is_uploaded_first_seen_from_the_file(run: Run, accepting: Service) -> None:
    Path("jobs").mkdir()
    Path("jobs/claims.csv").write_bytes(b"a,b\n1")
    Path("jobs/job.yaml").write_text("input: {type: lines, uri: ./claims.csv, format: csv}\nstages: [processor: noop]")
    result = run("submit", "jobs/job.yaml")
    assert (result.exit_code, result.stdout) == (0, f"{JOB_ID}\n")
    assert result.stderr.startswith("uploading claims.csv: 5 B\n")
    assert accepting.requests("PUT", "/part")[0].content == b"a,b\n1"
    assert submitted(accepting)["input"] == {"type": "lines", "uri": "s3://b/uploads/u/claims.csv", "format": "csv"}


def test_every_local_path_is_uploaded_once_seen_from_the_directory_that_is_named(run: Run, accepting: Service) -> None:
    form = {"url": f"{accepting.url}/bucket", "fields": {"key": "uploads/d/notes/${filename}"}}
    notes = {"upload_id": "d", "uri": "s3://b/uploads/d/notes/", "part_bytes": 5, "parts": [], "form": form}
    [file] = accepting.scripts("POST", "/v1/uploads")
    accepting.on("POST", "/v1/uploads", answer(notes, 201), file)
    accepting.on("POST", "/bucket", Answer(204))
    accepting.on("POST", "/v1/uploads/d/complete", answer({"upload_id": "d", "uri": notes["uri"], "bytes": 5}))
    Path("data/notes").mkdir(parents=True)
    Path("data/notes/a.txt").write_bytes(b"hello")
    Path("data/fees.csv").write_bytes(b"a,b\n1")
    Path("job.yaml").write_text(
        """
        input: [{type: objects, prefix: notes/}, {type: objects, prefix: "s3://b/more/"}]
        stages:
          - {processor: price, inputs: {fees: fees.csv, rates: "s3://b/rates.csv"}}
          - {processor: check, inputs: {fees: fees.csv}}
        """
    )
    assert run("submit", "job.yaml", "--directory", "data").exit_code == 0
    spec, fees = submitted(accepting), "s3://b/uploads/u/claims.csv"
    assert [one["prefix"] for one in spec["input"]] == ["s3://b/uploads/d/notes/", "s3://b/more/"]
    assert [stage["inputs"] for stage in spec["stages"]] == [
        {"fees": fees, "rates": "s3://b/rates.csv"},
        {"fees": fees},
    ]
    assert len(accepting.requests("POST", "/v1/uploads")) == 2


def test_an_option_can_name_a_local_directory(run: Run, accepting: Service) -> None:
    Path("notes").mkdir()
    result = run("submit", "--upload", "notes", "--stage", "noop")
    assert result.stderr == f"error: {Path.cwd()}/notes: there is no file in it\n"


@pytest.mark.parametrize("option", ["--upload", "--input"])
def test_an_option_can_name_a_local_file(option: str, run: Run, accepting: Service) -> None:
    Path("claims.csv").write_bytes(b"a,b\n1")
    assert run("submit", option, "claims.csv", "--stage", "noop").exit_code == 0
    assert submitted(accepting)["input"] == {"type": "lines", "uri": "s3://b/uploads/u/claims.csv", "format": "csv"}


def test_cron_makes_a_schedule(run: Run, accepting: Service) -> None:
    options = ["--count", "1", "--stage", "noop", "--name", "month-end", "--misfire", "skip"]
    result = run("submit", *options, "--cron", "0 6 L * *", "--time-zone", "Europe/Berlin")
    assert result.stdout == f"{SCHEDULE_ID}\n"
    [asked] = accepting.requests("POST", "/v1/schedules")
    assert asked.body == {
        "name": "month-end",
        "cron": "0 6 L * *",
        "time_zone": "Europe/Berlin",
        "misfire": "skip",
        "job": {"name": "month-end", "input": {"type": "range", "count": 1}, "stages": NOOP},
    }
    assert not accepting.requests("POST", "/v1/jobs")


def test_a_script_can_submit_twice_without_two_jobs(run: Run, accepting: Service) -> None:
    run("submit", "--count", "1", "--stage", "noop", "--idempotency-key", "nightly-31")
    assert accepting.requests("POST", "/v1/jobs")[0].headers["idempotency-key"] == "nightly-31"


def test_json_prints_the_job(run: Run, accepting: Service) -> None:
    assert json.loads(run("submit", "--count", "1", "--stage", "noop", "--json").stdout) == job()


def test_what_the_api_refuses_is_one_line_a_field(run: Run, service: Service) -> None:
    errors = [
        {
            "field": "stages.0.processor",
            "value": "nope",
            "message": "no such processor (registered: noop)",
        },
        {"field": "stages.0.retires", "value": 3, "message": "there is no such field; check its spelling or remove it"},
    ]
    service.on("POST", "/v1/jobs", problem(422, "invalid", errors))
    result = run("submit", "--count", "1", "--stage", "nope")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "error: stages.0.processor: no such processor (registered: noop) (got 'nope')",
        "error: stages.0.retires: there is no such field; check its spelling or remove it (got 3)",
    ]


BAD_OPTIONS = [
    (["missing.yaml"], "missing.yaml: there is no such file"),
    (["--upload", "missing.csv", "--stage", "noop"], "neither an S3 URI"),
    (["--input", "missing/", "--stage", "noop"], "neither an S3 URI"),
    (["--count", "1", "--item", "2"], "--item and --count: a job has one input"),
    (["--count", "1", "--stage", "noop", "--part-bytes", "8 Mibi"], "--part-bytes: '8 Mibi' is not a size"),
    (["--count", "1", "--stage", "noop", "--param", "x"], "--param: 'x' is not KEY=VALUE"),
    (["--count", "1", "--param", "x=1"], "--param: 'x' belongs to no stage"),
    (["--count", "1", "--stage", "a", "--stage", "n=b", "--param", "x=1"], "write STAGE.x=… with one of: 0, n"),
    (["--count", "1", "--stage", "noop", "--label", "=x"], "--label: '=x' is not KEY=VALUE"),
    (["--count", "1", "--stage", "noop", "--merge", "append"], "--merge: 'append' is no merge"),
    (["--count", "1", "--stage", "noop", "--merge", "reduce:"], "--merge: 'reduce:' is no merge"),
    (["--count", "1", "--stage", "noop", "--run-at", "tomorrow"], "--run-at: 'tomorrow' is not a time"),
    (["--count", "1", "--stage", "noop", "--time-zone", "UTC"], "--time-zone: belongs to --cron or --run-at"),
    (
        ["--count", "1", "--stage", "noop", "--run-at", "2099-01-01", "--time-zone", "Berlin"],
        "--time-zone: 'Berlin' is not an IANA time zone",
    ),
    (["--count", "1", "--stage", "noop", "--misfire", "skip"], "--misfire: belongs to --cron"),
    (["--count", "1", "--stage", "noop", "--cron", "* * * * *", "--watch"], "--watch: a schedule has no job"),
    (["--count", "x"], "'--count'"),
    (["--misfire", "never"], "'never' is not one of 'run_once', 'run_all', 'skip'"),
    (["--nope"], "No such option: --nope"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=[" ".join(options) for options, _ in BAD_OPTIONS])
def test_bad_options_ask_for_nothing(options: list[str], message: str, run: Run, accepting: Service) -> None:
    result = run("submit", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not accepting.asked


BAD_FILES = [
    ("job.yaml", "input:\n  type: range\n count: 3\n", "job.yaml:3:2: "),
    ("job.yaml", "name: a\nstages: []\nname: b\n", "job.yaml:3:1: 'name' is given twice"),
    ("job.yaml", "input: [1, 2\n", "job.yaml:2:1: "),
    ("job.yaml", "- a\n", "job.yaml: must hold a mapping such as `name: …`, holds a list"),
    ("job.yaml", "", "job.yaml: must hold a mapping such as `name: …`, holds nothing"),
    ("job.yaml", "name: \x07\n", "job.yaml: unacceptable character"),
    ("job.yaml", "name: !!python/object:os.system x\n", "job.yaml:1:7: could not determine a constructor"),
    ("job.yaml", "input: {type: lines, uri: gone.csv}", "input.uri: 'gone.csv' is neither an S3 URI"),
    ("job.yaml", "priority: .nan\n", "this can't be written as JSON"),
    ("job.json", '{"name": "a",\n "stages": }', "job.json:2:12: "),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_bad_files_are_told_with_their_line(
    name: str, content: str, message: str, run: Run, accepting: Service
) -> None:
    Path(name).write_text(content)
    result = run("submit", name)
    assert (result.exit_code, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert line.startswith(f"error: {message}")
    assert not accepting.asked
