"""`piecework submit`: what files and options make of a job, and what scripts get back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.unit.client.answers import JOB_ID, job, stage
from tests.unit.client.conftest import Answer, Run, Service, answer, problem
from tests.unit.client.openapi import resolve, schemas

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
    [asked] = [one for one in service.requests("POST", "/v1/jobs") if not one.query]
    return asked.body


LINES = {"type": "lines", "uri": "s3://b/a"}
MANIFEST = {"type": "manifest", "uri": "s3://b/list"}

# fmt: off
INPUTS: list[tuple[str, dict[str, Any]]] = [
    ("--input s3://b/a", {**LINES, "format": "text"}),
    ("--input s3://b/a.tsv.zst", {"type": "lines", "uri": "s3://b/a.tsv.zst", "format": "tsv"}),
    ("--input s3://b/a --format fixed --record-bytes 1KiB", {**LINES, "format": "fixed", "record_bytes": 1024}),
    (
        "--input s3://b/a --format csv --no-header --delimiter ; --quote ' --escape % --multiline --compression gzip",
        {**LINES, "format": "csv", "header": False, "delimiter": ";", "quote": "'", "escape": "%", "multiline": True,
         "compression": "gzip"},
    ),
    ("--input s3://b/a --compression zstd", {**LINES, "format": "text", "compression": "zstd"}),
    ("--input s3://b/a --compression none", {**LINES, "format": "text", "compression": "none"}),
    ("--input s3://b/a --format tsv --header --parts 9", {**LINES, "format": "tsv", "header": True, "parts": 9}),
    ("--input s3://b/a --format parquet --parts 9", {"type": "parquet", "uri": "s3://b/a", "parts": 9}),
    ("--input s3://b/a.parquet --part-bytes 1M", {"type": "parquet", "uri": "s3://b/a.parquet", "part_bytes": 2**20}),
    ("--input s3://b/a.feather --parts 9", {"type": "arrow", "uri": "s3://b/a.feather", "parts": 9}),
    ("--input s3://b/a.arrow --part-bytes 1M", {"type": "arrow", "uri": "s3://b/a.arrow", "part_bytes": 2**20}),
    ("--input s3://b/a.orc --parts 9", {"type": "orc", "uri": "s3://b/a.orc", "parts": 9}),
    ("--input s3://b/a.orc --part-bytes 1M", {"type": "orc", "uri": "s3://b/a.orc", "part_bytes": 2**20}),
    (
        "--input s3://b/a.xml --record-tag claim --lists line --lists note --scan --parts 9",
        {"type": "xml", "uri": "s3://b/a.xml", "record_tag": "claim", "lists": ["line", "note"], "scan": True,
         "parts": 9},
    ),
    (
        "--input s3://b/a.xml.gz --record-tag c:claim --part-bytes 1M",
        {"type": "xml", "uri": "s3://b/a.xml.gz", "record_tag": "c:claim", "part_bytes": 2**20},
    ),
    *(
        (
            f"--input s3://b/a --format xml --record-tag claim --compression {name}",
            {"type": "xml", "uri": "s3://b/a", "record_tag": "claim", "compression": name},
        )
        for name in ("none", "gzip", "zstd")
    ),
    ("--input s3://b/a.avro --parts 9", {"type": "avro", "uri": "s3://b/a.avro", "parts": 9}),
    ("--input s3://b/a.avro --part-bytes 1M", {"type": "avro", "uri": "s3://b/a.avro", "part_bytes": 2**20}),
    (
        "--input s3://b/scans/ --exclude *.tmp --exclude *.bak --objects-per-task 9",
        {"type": "objects", "prefix": "s3://b/scans/", "exclude": ["*.tmp", "*.bak"], "objects_per_task": 9},
    ),
    ("--input s3://b/scans/ --part-bytes 1M", {"type": "objects", "prefix": "s3://b/scans/", "part_bytes": 2**20}),
    ("--input s3://b/scans/ --markers", {"type": "objects", "prefix": "s3://b/scans/", "markers": True}),
    ("--manifest s3://b/list --format csv --markers", {**MANIFEST, "format": "csv", "markers": True}),
    (
        "--manifest s3://b/list --include *.tif --exclude a* --objects-per-task 9",
        {**MANIFEST, "include": ["*.tif"], "exclude": ["a*"], "objects_per_task": 9},
    ),
    ("--manifest s3://b/list --format csv --part-bytes 1M", {**MANIFEST, "format": "csv", "part_bytes": 2**20}),
    ("--manifest s3://b/list --format jsonl", {**MANIFEST, "format": "jsonl"}),
    ("--manifest s3://b/list --format parquet", {**MANIFEST, "format": "parquet"}),
    ("--manifest s3://b/a --format inventory", {"type": "manifest", "uri": "s3://b/a", "format": "inventory"}),
    ("--manifest s3://b/list --versions all", {**MANIFEST, "versions": "all"}),
    (
        "--manifest s3://b/list --fields bucket,key,version_id,ignore --keys plain --versions latest",
        {**MANIFEST, "fields": ["bucket", "key", "version_id", "ignore"], "keys": "plain", "versions": "latest"},
    ),
    (
        "--manifest s3://b/list --fields uri,etag,size --keys url_encoded",
        {**MANIFEST, "fields": ["uri", "etag", "size"], "keys": "url_encoded"},
    ),
]

OPTIONS: list[tuple[list[str], dict[str, Any]]] = [
    *(([*text.split(), "--stage", "noop"], {"input": input, "stages": NOOP}) for text, input in INPUTS),
    (
        ["--input", "s3://b/a", "--format", "csv", "--quote", "", "--stage", "noop"],
        {"input": {**LINES, "format": "csv", "quote": None}, "stages": NOOP},
    ),
    (
        ["--count", "1", "--stage", "clean=clean", "--stage", "sum",
         "--timeout-seconds", "10m", "--timeout-seconds", "1=0.5", "--memory-bytes", "clean=2GiB",
         "--pools", "clean=spot,on-demand", "--next-pool-after-seconds", "clean=2m",
         "--cpus", "clean=0.5", "--memory", "clean=1GiB", "--gpus", "1=2", "--disk", "1=1GB",
         "--max-attempts", "5", "--backoff-seconds", "0", "--backoff-max-seconds", "clean=1m",
         "--tolerated-failures", "0=3", "--tolerated-failures", "1=2.5%",
         "--rejects-max", "1=9", "--rejects-max", "clean=10",
         "--fan-out", "clean", "--barrier", "1", "--stage-input", "clean.fees=s3://b/fees.csv",
         "--column", "clean.id=int64", "--column", "clean.tags=[text]"],
        {
            "input": {"type": "range", "count": 1},
            "stages": [
                {
                    "name": "clean",
                    "processor": "clean",
                    "timeout_seconds": 600,
                    "memory_bytes": 2**31,
                    "pools": ["spot", "on-demand"],
                    "next_pool_after_seconds": 120,
                    "cpus": 0.5,
                    "memory": 2**30,
                    "retry": {"max_attempts": 5, "backoff_seconds": 0, "backoff_max_seconds": 60},
                    "tolerated_failures": 3,
                    "rejects_max": 10,
                    "fan_out": True,
                    "inputs": {"fees": "s3://b/fees.csv"},
                    "columns": {"id": "int64", "tags": ["text"]},
                },
                {
                    "processor": "sum",
                    "timeout_seconds": 0.5,
                    "retry": {"max_attempts": 5, "backoff_seconds": 0},
                    "rejects_max": 9,
                    "gpus": 2,
                    "tolerated_failures": "2.5%",
                    "disk": 1_000_000_000,
                    "barrier": True,
                },
            ],
        },
    ),
    (
        ["--count", "1", "--stage", "noop", "--results", "s3://b/priced/", "--output-queue", "https://sqs/1/done",
         "--merge", "parquet", "--keep", "interim=1d", "--keep", "results=forever",
         "--keep", "records=90d", "--reuse"],
        {
            "input": {"type": "range", "count": 1},
            "stages": NOOP,
            "results": "s3://b/priced/",
            "output_queue": "https://sqs/1/done",
            "merge": {"type": "parquet"},
            "keep": {"interim": "1d", "results": "forever", "records": "90d"},
            "reuse": True,
        },
    ),
    (
        ["--count", "1", "--stage", "noop", "--after", JOB_ID, "--after", f"{SCHEDULE_ID}:any",
         "--after", f"{SCHEDULE_ID}:index", "--after-failure", "skip"],
        {
            "input": {"type": "range", "count": 1},
            "stages": NOOP,
            "after": [
                {"job_id": JOB_ID},
                {"job_id": SCHEDULE_ID, "condition": "any"},
                {"job_id": SCHEDULE_ID, "by_index": True},
            ],
            "after_failure": "skip",
        },
    ),
    (
        ["--count", "1", "--stage", "noop", "--after", f"{JOB_ID}:succeeded", "--after-failure", "fail"],
        {
            "input": {"type": "range", "count": 1},
            "stages": NOOP,
            "after": [{"job_id": JOB_ID, "condition": "succeeded"}],
            "after_failure": "fail",
        },
    ),
    (
        ["--count", "1", "--stage", "noop", "--merge", "parquet:all.parquet"],
        {
            "input": {"type": "range", "count": 1},
            "stages": NOOP,
            "merge": {"type": "parquet", "filename": "all.parquet"},
        },
    ),
    (
        ["--count", "1", "--stage", "noop", "--merge", "none"],
        {"input": {"type": "range", "count": 1}, "stages": NOOP, "merge": {"type": "none"}},
    ),
    (
        ["--count", "1", "--stage", "noop", "--merge", "reduce:sum@3:delays.json", "--fan-in", "100",
         "--merge-param", "by=[carrier]", "--merge-input", "fees=s3://b/fees.csv"],
        {
            "input": {"type": "range", "count": 1},
            "stages": NOOP,
            "merge": {
                "type": "reduce",
                "processor": "sum@3",
                "filename": "delays.json",
                "fan_in": 100,
                "params": {"by": ["carrier"]},
                "inputs": {"fees": "s3://b/fees.csv"},
            },
        },
    ),
    (
        ["--array", "1-100:4%5", "--stage", "noop", "--stage", "noop"],
        {
            "input": {"type": "range", "start": 1, "stop": 101, "step": 4},
            "stages": [{"processor": "noop", "running_max": 5}, {"processor": "noop"}],
        },
    ),
    (
        ["--array", "1-9%3", "--stage", "noop", "--running-max", "2"],
        {"input": {"type": "range", "start": 1, "stop": 10}, "stages": [{"processor": "noop", "running_max": 2}]},
    ),
    (["--array", "7,3,9", "--stage", "noop"], {"input": {"type": "range", "values": [3, 7, 9]}, "stages": NOOP}),
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
        ["--count", "1", "--stage", "noop", "--merge", "concat:all.csv", "--merge-lines", "--name", "nightly",
         "--share", "claims", "--priority", "-5", "--label", "team=claims", "--label", "month=2026-01"],
        {
            "name": "nightly",
            "input": {"type": "range", "count": 1},
            "stages": NOOP,
            "merge": {"type": "concat", "filename": "all.csv", "lines": True},
            "share": "claims",
            "priority": -5,
            "labels": {"team": "claims", "month": "2026-01"},
        },
    ),
    (
        ["--stream", "--idle-seconds", "2h", "--stage", "noop"],
        {"input": {"type": "stream", "idle_seconds": 7200.0}, "stages": NOOP},
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
    first = spec["stages"][0]
    assert submitted(accepting) == {"name": first.get("name", first["processor"]), **spec}


# What only a job file can say.
FILE_ONLY = ("stages.resplit",)


def fields_of(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Every field of a schema, and every value of those that have a choice: `merge[reduce].fan_in`, `merge=none`."""
    schema = resolve(schema)
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from fields_of(choice, path)
    if "items" in schema:
        yield from fields_of(schema["items"], path)
    for value in schema.get("enum", ()):
        yield f"{path}={value}"
    fields = schema.get("properties", {})
    tag = f"[{fields['type']['const']}]" if "type" in fields else ""
    for name, field in fields.items():
        yield f"{path}{tag}.{name}"
        yield from fields_of(field, f"{path}{tag}.{name}")


def fields_in(value: Any, path: str) -> Iterator[str]:
    """Those of them that a specification has."""
    if isinstance(value, list):
        for one in value:
            yield from fields_in(one, path)
    elif isinstance(value, dict):
        tag = f"[{value['type']}]" if "type" in value else ""
        for name, field in value.items():
            yield f"{path}{tag}.{name}"
            yield from fields_in(field, f"{path}{tag}.{name}")
    else:
        yield f"{path}={value}"


def test_options_can_say_all_that_a_job_file_can() -> None:
    shown = {field for _, spec in OPTIONS for field in fields_in(spec, "job")}
    missing = set(fields_of(schemas()["JobSpec"], "job")) - shown
    assert {field for field in missing if not field.startswith(tuple(f"job.{field}" for field in FILE_ONLY))} == set()


@pytest.mark.parametrize("spec", [spec for _, spec in OPTIONS])
def test_what_options_make_is_what_the_api_takes(spec: dict[str, Any]) -> None:
    jsonschema.validate(spec, {"$ref": "#/components/schemas/JobSpec", "components": {"schemas": schemas()}})


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
    named = {"name": "noop", **spec}
    assert [asked.body for asked in accepting.requests("POST", "/v1/jobs")] == [named, named]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("nightly.yaml", "nightly"),
        ("lines/job.yaml", "noop"),  # every job file might be called so
        ("-", "noop"),
        ("nightly.yaml --stage sum@3", "nightly"),
        ("nightly.yaml --name month-end", "month-end"),
        ("nightly.yaml --set name=month-end", "month-end"),
        ("_Tagesabschluß_(2).yml", "Tagesabschlu-_-2"),
        ("job.yaml --stage tidy=clean@4 --stage sum", "tidy"),
        ("job.yaml --stage clean@4", "clean"),
    ],
)
def test_a_job_without_a_name_has_that_of_its_file_or_its_first_stage(
    arguments: str, name: str, run: Run, accepting: Service
) -> None:
    file = Path(arguments.split()[0])
    file.parent.mkdir(exist_ok=True)
    spec = json.dumps({"input": {"type": "range", "count": 1}, "stages": NOOP})
    if file != Path("-"):
        file.write_text(spec)
    assert run("submit", *arguments.split(), input=spec).stdout == f"{JOB_ID}\n"
    assert submitted(accepting)["name"] == name


def test_options_change_a_file(run: Run, accepting: Service) -> None:
    Path("job.yaml").write_text(JOB_FILE)
    run(
        "submit", "job.yaml", "--input", "s3://b/more.csv", "--param", "strict=false", "--label", "run=2", "--name", "x"
    )
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


def test_local_paths_of_options_are_seen_from_the_working_directory(run: Run, accepting: Service) -> None:
    Path("jobs").mkdir()
    Path("jobs/job.yaml").write_text(JOB_FILE)
    Path("fees.csv").write_bytes(b"a,b\n1")
    options = ["--stage-input", "fees=fees.csv", "--merge", "reduce:sum", "--merge-input", "rates=fees.csv"]
    assert run("submit", "jobs/job.yaml", *options).exit_code == 0
    spec, uri = submitted(accepting), "s3://b/uploads/u/claims.csv"
    assert (spec["stages"][0]["inputs"], spec["merge"]["inputs"]) == ({"fees": uri}, {"rates": uri})


@pytest.mark.parametrize(
    ("format", "input"),
    [
        ("jsonl", {"type": "lines", "uri": "s3://b/flights.csv", "format": "jsonl", "part_bytes": 1000}),
        ("parquet", {"type": "parquet", "uri": "s3://b/flights.csv"}),
    ],
)
def test_an_option_can_change_the_format_of_a_files_input(
    format: str, input: dict[str, Any], run: Run, accepting: Service
) -> None:
    Path("job.yaml").write_text(JOB_FILE)
    assert run("submit", "job.yaml", "--format", format).exit_code == 0
    assert submitted(accepting)["input"] == input


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
        "overlap": "allow",
        "not_on": [],
        "business_days": None,
        "ical": None,
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
    (["--count", "1", "--array", "1-2"], "--count and --array: a job has one input"),
    (["--array", "1-", "--stage", "noop"], "--array: '1-' is not an array; write 1-100, 1-100:4 (every fourth)"),
    (["--count", "1", "--stage", "noop", "--part-bytes", "8 Mibi"], "--part-bytes: '8 Mibi' is not a size"),
    (["--count", "1", "--stage", "noop", "--param", "x"], "--param: 'x' is not KEY=VALUE"),
    (["--count", "1", "--param", "x=1"], "--param: 'x' belongs to no stage"),
    (["--count", "1", "--stage", "a", "--stage", "n=b", "--param", "x=1"], "write STAGE.x=… with one of: 0, n"),
    (["--count", "1", "--stage", "noop", "--label", "=x"], "--label: '=x' is not KEY=VALUE"),
    (["--count", "1", "--stage", "noop", "--merge", "append"], "--merge: 'append' is not a merge"),
    (["--count", "1", "--stage", "noop", "--merge", "reduce:"], "--merge: 'reduce:' is not a merge"),
    (["--count", "1", "--stage", "noop", "--merge", "reduce:a:b:c"], "--merge: 'reduce:a:b:c' is not a merge"),
    (["--count", "1", "--stage", "noop", "--merge", "concat", "--fan-in", "9"], "--fan-in: belong to a reduce"),
    (["--count", "1", "--stage", "noop", "--pool", "clean=big"], "--pool: there is no stage 'clean'; write one of: 0"),
    (["--count", "1", "--fan-out", "0"], "--fan-out: there is no stage '0'; give a --stage or a job file"),
    (["--count", "1", "--stage", "noop", "--max-attempts", "no"], "--max-attempts: 'no' is not a number"),
    (["--count", "1", "--stage", "noop", "--timeout-seconds", "2H"], "--timeout-seconds: '2H' is not a duration"),
    (["--count", "1", "--stage", "noop", "--backoff-seconds", "x"], "--backoff-seconds: 'x' is not a duration"),
    (["--count", "1", "--stage", "noop", "--memory-bytes", "0=much"], "--memory-bytes: 'much' is not a size"),
    (["--input", "s3://b/a", "--format", "xlsx"], "--format: 'xlsx' is not a format of this input; write one of text"),
    (["--manifest", "s3://b/a", "--format", "tsv"], "--format: 'tsv' is not a format of this input; write one of csv"),
    (["--count", "1", "--format", "csv"], "--format: 'csv' needs one object to read"),
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
    ("job.json", '{"priority": NaN}', "this can't be written as JSON"),
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


def dry_runs(service: Service) -> list[Any]:
    return [one.body for one in service.requests("POST", "/v1/jobs") if one.query == {"dry_run": ["true"]}]


def test_a_job_is_checked_before_its_files_are_uploaded(run: Run, accepting: Service) -> None:
    Path("claims.csv").write_bytes(b"a,b\n1")
    Path("job.yaml").write_text("input: {type: lines, uri: claims.csv, format: csv}\nstages: [processor: noop]\n")
    accepting.on("POST", "/v1/jobs", problem(422, "stages.0.pool: 'nope': no such pool"))
    result = run("submit", "job.yaml", "--pool", "nope")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no such pool" in result.stderr
    assert accepting.requests("POST", "/v1/uploads") == []
    [tested] = dry_runs(accepting)
    assert (tested["input"]["uri"], tested["after"]) == ("s3://-/claims.csv", [])


def test_a_server_without_dry_runs_gets_the_job_all_the_same(run: Run, accepting: Service) -> None:
    Path("claims.csv").write_bytes(b"a,b\n1")
    unknown = [{"field": "after", "value": [], "message": "there is no such field"}]
    old = problem(422, "after: there is no such field", errors=unknown)
    accepting.on("POST", "/v1/jobs", old, answer(job(), 201))
    result = run("submit", "--input", "claims.csv", "--stage", "noop")
    assert (result.exit_code, result.stdout) == (0, f"{JOB_ID}\n")
    assert submitted(accepting)["input"]["uri"] == "s3://b/uploads/u/claims.csv"

    accepting.on("POST", "/v1/jobs", old)
    result = run("validate", "--count", "1", "--stage", "noop")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "the server is of a release that can't check a job without submitting it" in result.stderr


def test_validate_shows_what_would_be_made_and_submits_nothing(run: Run, accepting: Service) -> None:
    Path("data").mkdir()
    Path("data/a.txt").write_text("a")
    stages = [stage(task_count=None), stage(stage=1, name="sum", task_count=1200)]
    accepting.on("POST", "/v1/jobs", answer(job(stages=stages)))
    result = run("validate", "--input", "data/", "--stage", "clean", "--stage", "sum")
    assert result.exit_code == 0, result.stderr
    assert [line.split()[-1] for line in result.stdout.splitlines()] == ["TASKS", "?", "1,200"]
    assert "job flights is valid; nothing was submitted" in result.stderr
    [tested] = dry_runs(accepting)
    assert tested["input"] == {"type": "objects", "prefix": "s3://-/data/"}
    assert accepting.requests("POST", "/v1/uploads") == []
    assert len(accepting.requests("POST", "/v1/jobs")) == 1


def test_validate_looks_at_an_input_that_is_there(run: Run, accepting: Service) -> None:
    accepting.on("POST", "/v1/jobs", answer(job(stages=[stage(task_count=None)])))
    split = {"count": 97, "bytes": 5, "exact": False, "notes": [], "part_bytes": 1, "columns": None, "parts": []}
    accepting.on("POST", "/v1/splits", answer(split))
    result = run("validate", "--input", "s3://b/a.csv", "--stage", "clean")
    assert result.stdout.splitlines()[-1].endswith("about 97")
