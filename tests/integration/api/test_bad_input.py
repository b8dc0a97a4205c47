"""Each bad request gets a problem (RFC 9457) that names the field, the value and the fix."""

import io
from typing import Any

import httpx
import pyarrow
import pyarrow.parquet
import pytest
from botocore.exceptions import ClientError
from fastapi import FastAPI

from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.reads import PinnedObject
from services.platform.settings import Settings
from tests.integration.api.conftest import array_job, client_of, ok

pytestmark = pytest.mark.usefixtures("grid")

UNKNOWN = "01970000-0000-7000-8000-000000000000"


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem, after a check that it is one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:piecework:")
    assert body["title"] and body["detail"]
    assert body["instance"] == response.request.url.path
    return body


def blamed(response: httpx.Response) -> tuple[str, Any, str]:
    """Field, value and message of a 422 that blames one field."""
    [error] = problem(response, 422)["errors"]
    return error["field"], error["value"], error["message"]


BAD_FIELDS: list[tuple[dict[str, Any], str, Any, str]] = [
    ({"stages": [{"processor": "nope"}]}, "stages.0.processor", "nope", "registered: noop"),
    ({"stages": [{"processor": "noop@9"}]}, "stages.0.processor", "noop@9", "no such processor"),
    ({"stages": [{"processor": "noop@new"}]}, "stages.0.processor", "noop@new", "name@version"),
    ({"stages": [{"processor": "noop", "pool": "gpu"}]}, "stages.0.pool", "gpu", "pools: default"),
    ({"merge": {"type": "reduce", "processor": "nope"}}, "merge.processor", "nope", "registered: noop"),
    ({"stages": []}, "stages", [], "at least 1"),
    (
        {"stages": [{"processor": "noop", "retry": {"max_attempts": 0}}]},
        "stages.0.retry.max_attempts",
        0,
        "greater",
    ),
    ({"stages": [{"processor": "noop", "retrys": 3}]}, "stages.0.retrys", 3, "spelling"),
    ({"input": {"type": "range", "count": 0}}, "input.count", 0, "greater than or equal to 1"),
    (
        {"input": {"type": "range", "start": 5, "stop": 5}},
        "input",
        {"type": "range", "start": 5, "stop": 5},
        "stop must be greater than start",
    ),
    ({"input": {"type": "items", "items": []}}, "input.items", [], "at least 1"),
    ({"input": {"type": "zip", "uri": "s3://a/b"}}, "input.type", "zip", "'lines'"),
    ({"input": {"uri": "s3://a/b"}}, "input.type", None, "required"),
    ({"input": {"type": "lines"}}, "input.uri", None, "required"),
    ({"input": {"type": "lines", "uri": "/tmp/x"}}, "input.uri", "/tmp/x", "s3://bucket/key"),
    ({"input": {"type": "lines", "uri": "s3://bucket/"}}, "input.uri", "s3://bucket/", "s3://bucket/key"),
    ({"name": "my job"}, "name", "my job", "letters, digits"),
    ({"labels": {"a b": "c"}}, "labels.a b", "a b", "letters, digits"),
    ({"run_at": "2001-01-01T00:00:00Z"}, "run_at", "2001-01-01T00:00:00+00:00", "give a later one"),
    ({"run_at": "2099-01-01T00:00:00"}, "run_at", "2099-01-01T00:00:00", "timezone"),
    ({"priority": "urgent"}, "priority", "urgent", "integer"),
    (
        {"stages": [{"processor": "noop", "timeout_seconds": "2 hours"}]},
        "stages.0.timeout_seconds",
        "2 hours",
        "write for example 30s",
    ),
    (
        {"input": {"type": "lines", "uri": "s3://a/b", "part_bytes": "big"}},
        "input.part_bytes",
        "big",
        "write for example 8MiB",
    ),
]


async def test_a_bad_field_of_a_job_is_named_with_its_value_and_the_fix(
    submitter: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    for changes, field, value, fix in BAD_FIELDS:
        with subtests.test(field, changes=changes):
            response = await submitter.post("/v1/jobs", json=array_job(**changes))

            assert blamed(response)[:2] == (field, value)
            assert fix in blamed(response)[2]


async def test_all_bad_fields_are_named_at_once(submitter: httpx.AsyncClient) -> None:
    response = await submitter.post("/v1/jobs", json={"name": "?", "input": {"type": "range", "count": "x"}})

    fields = [error["field"] for error in problem(response, 422)["errors"]]
    assert fields == ["name", "input.count", "stages"]


async def test_params_are_checked_against_the_processors_schema(operator: httpx.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"rate": {"type": "integer"}}, "required": ["rate"]}
    await ok(operator.post("/v1/processors", json={"name": "strict", "builtin": "noop", "params_schema": schema}))

    wrong = await operator.post("/v1/jobs", json=array_job(stages=[{"processor": "strict", "params": {"rate": "x"}}]))
    missing = await operator.post("/v1/jobs", json=array_job(stages=[{"processor": "strict"}]))

    assert blamed(wrong)[:2] == ("stages.0.params.rate", "x") and "integer" in blamed(wrong)[2]
    assert blamed(missing)[0] == "stages.0.params" and "'rate' is a required property" in blamed(missing)[2]


SQL = "SELECT *, '$tag' AS \"$c\" FROM input WHERE a > {params.least} AND b < $most -- $more"


@pytest.mark.parametrize(
    ("processor", "params", "missing"),
    [
        ({"sql": SQL}, {"least": 1, "most": None}, None),
        ({"sql": SQL}, {"most": 2}, "the query of named@1 has {params.least}, which is not among these params"),
        ({"sql": SQL}, {"least": 1}, "the query of named@1 has $most, which is not among these params"),
        ({"command": ["crop", "{params.to-do}", "{x.y}"]}, {"to-do": 1}, None),
        ({"command": ["crop", "-w={params.w}"]}, {"W": 1}, "the command of named@1 has {params.w}, which"),
    ],
)
async def test_a_param_that_the_processor_names_is_missed_at_submission(
    operator: httpx.AsyncClient, processor: dict[str, Any], params: dict[str, Any], missing: str | None
) -> None:
    await ok(operator.post("/v1/processors", json={"name": "named", **processor}))
    stage = {"processor": "named", "params": params}
    as_stage = array_job(stages=[{"processor": "noop"}, stage])
    as_merge = array_job(merge={"type": "reduce", **stage})

    for job, place in ((as_stage, "stages.1"), (as_merge, "merge")):
        response = await operator.post("/v1/jobs", json=job)

        if missing is None:
            assert response.status_code == 201, response.text
        else:
            assert blamed(response)[:2] == (f"{place}.params", params) and missing in blamed(response)[2]
    schedule = {"name": "nightly", "cron": "0 3 * * *", "time_zone": "UTC", "job": as_stage}
    response = await operator.post("/v1/schedules", json=schedule)
    assert response.status_code == (201 if missing is None else 422), response.text


async def test_a_declared_object_that_is_missing_is_found_at_submission(
    operator: httpx.AsyncClient, settings: Settings, aws: Aws
) -> None:
    here, gone = f"s3://{settings.bucket}/fees.csv", f"s3://{settings.bucket}/gone.csv"
    await aws.s3.put_object(Bucket=settings.bucket, Key="fees.csv", Body=b"")
    for name, inputs in (("own", {"fees": gone}), ("asks", {"fees": None, "more": here})):
        await ok(operator.post("/v1/processors", json={"name": name, "command": ["true"], "inputs": inputs}))

    def job(processor: str, **changes: Any) -> dict[str, Any]:
        return array_job(stages=[{"processor": "noop"}, {"processor": processor, **changes}])

    for uri in (gone, "s3://no-such-bucket-anywhere/key", "s3://NOT_A_NAME!/key"):
        asking = await operator.post("/v1/jobs", json=job("asks", inputs={"fees": uri}))
        reducing = await operator.post(
            "/v1/jobs", json=array_job(merge={"type": "reduce", "processor": "asks", "inputs": {"fees": uri}})
        )
        assert blamed(asking)[:2] == ("stages.1.inputs.fees", uri)
        assert blamed(reducing)[:2] == ("merge.inputs.fees", uri)
    owning = await operator.post("/v1/jobs", json=job("own"))
    assert blamed(owning)[:2] == ("stages.1.inputs.fees", gone) and "no such object" in blamed(owning)[2]
    for good in (job("asks", inputs={"fees": here}), job("own", inputs={"fees": here}),
                 job("own") | {"run_at": "2099-01-01T00:00:00Z"}):  # fmt: skip
        await ok(operator.post("/v1/jobs", json=good))


async def test_a_declared_object_that_the_api_may_not_read_is_left_to_the_tasks(
    operator: httpx.AsyncClient, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"name": "own", "command": ["true"], "inputs": {"fees": "s3://secret/fees.csv"}}
    await ok(operator.post("/v1/processors", json=spec))

    async def refused(*_: Any) -> None:
        raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadObject")

    monkeypatch.setattr(PinnedObject, "find", refused)
    await ok(operator.post("/v1/jobs", json=array_job(stages=[{"processor": "own"}])))


async def test_limits_of_stages_and_items(submitter: httpx.AsyncClient, settings: Settings) -> None:
    stages = await submitter.post(
        "/v1/jobs", json=array_job(stages=[{"processor": "noop"}] * (settings.stages_max + 1))
    )
    items = await submitter.post(
        "/v1/jobs", json=array_job(input={"type": "items", "items": [0] * (settings.items_max + 1)})
    )

    assert blamed(stages)[0] == "stages" and str(settings.stages_max) in blamed(stages)[2]
    assert blamed(items)[0] == "input.items" and str(settings.items_max) in blamed(items)[2]


async def test_no_stage_may_ask_for_more_memory_than_the_grid_allows(
    submitter: httpx.AsyncClient, settings: Settings
) -> None:
    stage = {"processor": "noop", "memory_bytes": settings.memory_bytes_max + 1}
    refused = await submitter.post("/v1/jobs", json=array_job(stages=[{"processor": "noop"}, stage]))
    await ok(submitter.post("/v1/jobs", json=array_job(stages=[stage | {"memory_bytes": "1TiB"}])))

    assert blamed(refused)[0] == "stages.1.memory_bytes"
    assert f"at most {settings.memory_bytes_max}" in blamed(refused)[2]


async def test_a_missing_object_is_found_at_submission(submitter: httpx.AsyncClient, settings: Settings) -> None:
    for kind in ("lines", "parquet"):
        for uri in (f"s3://{settings.bucket}/missing", "s3://no-such-bucket-anywhere/key"):
            response = await submitter.post("/v1/jobs", json=array_job(input={"type": kind, "uri": uri}))

            assert blamed(response)[:2] == ("input.uri", uri) and "no such object" in blamed(response)[2]


async def test_an_empty_prefix_is_found_at_submission(
    submitter: httpx.AsyncClient, settings: Settings, aws: Aws
) -> None:
    prefix = f"s3://{settings.bucket}/claims/"
    job = array_job(input={"type": "objects", "prefix": prefix})

    assert blamed(await submitter.post("/v1/jobs", json=job))[:2] == ("input.prefix", prefix)
    await aws.s3.put_object(Bucket=settings.bucket, Key="claims/1.json", Body=b"{}")
    assert (await ok(submitter.post("/v1/jobs", json=job)))["state"] == "running"


NO_PARQUET = {
    b"": "does not end with PAR1",
    b"carrier,month\n": "does not end with PAR1",
    b"PAR1" + b"\x00" * 100 + b"\xff\xff\xff\x7fPAR1": "longer than the file",
    b"PAR1garbagePAR1": "longer than the file",
    b"PAR1" + b"\x15\x00" * 50 + b"\x20\x00\x00\x00PAR1": "can't be read",
}


@pytest.mark.both_emulators("HeadObject", "GetObject")
async def test_an_unreadable_parquet_object_is_found_at_submission(
    submitter: httpx.AsyncClient, settings: Settings, aws: Aws
) -> None:
    uri = f"s3://{settings.bucket}/bad.parquet"
    for body, reason in NO_PARQUET.items():
        await aws.s3.put_object(Bucket=settings.bucket, Key="bad.parquet", Body=body)

        response = await submitter.post("/v1/jobs", json=array_job(input={"type": "parquet", "uri": uri}))

        assert blamed(response)[:2] == ("input.uri", uri) and reason in blamed(response)[2]


async def test_a_good_parquet_object_is_accepted(submitter: httpx.AsyncClient, settings: Settings, aws: Aws) -> None:
    # Enough columns that the footer does not fit into the first read.
    table = pyarrow.table({f"a_rather_long_column_name_{n}": [n] for n in range(1500)})
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    await aws.s3.put_object(Bucket=settings.bucket, Key="good.parquet", Body=file.getvalue())

    job = array_job(input={"type": "parquet", "uri": f"s3://{settings.bucket}/good.parquet"})

    assert (await ok(submitter.post("/v1/jobs", json=job)))["state"] == "running"


async def test_a_refused_job_leaves_nothing_behind(submitter: httpx.AsyncClient, database: Database) -> None:
    await submitter.post("/v1/jobs", json=array_job(stages=[{"processor": "noop"}, {"processor": "nope"}]))

    assert await database.fetchval("SELECT count(*) FROM jobs") == 0


async def test_a_run_that_is_just_past_is_excused_by_clock_skew(
    submitter: httpx.AsyncClient, database: Database
) -> None:
    now = await database.fetchval("SELECT now() - interval '2 seconds'")

    assert (await ok(submitter.post("/v1/jobs", json=array_job(run_at=now.isoformat()))))["state"] == "scheduled"


async def test_values_that_postgres_or_json_cannot_hold(submitter: httpx.AsyncClient) -> None:
    async def post(body: bytes) -> httpx.Response:
        return await submitter.post("/v1/jobs", content=body, headers={"content-type": "application/json"})

    stages = b'"stages": [{"processor": "noop"}]'
    nul = await post(b'{"input": {"type": "items", "items": ["a\\u0000b"]}, ' + stages + b"}")
    nan = await post(b'{"input": {"type": "items", "items": [NaN]}, ' + stages + b"}")
    surrogate = await post(b'{"input": {"type": "items", "items": ["\\ud800"]}, ' + stages + b"}")
    huge = await post(b'{"input": {"type": "range", "count": 1' + b"0" * 400 + b"}, " + stages + b"}")
    deep = await post(b'{"input": {"type": "items", "items": [' + b"[" * 300 + b"]" * 300 + b"]}, " + stages + b"}")
    nested = await post(b'{"input": {"type": "items", "items": [' + b"[" * 90 + b"]" * 90 + b"]}, " + stages + b"}")
    in_query = await submitter.get("/v1/jobs", params={"name": "a\x00b"})

    assert "NUL" in problem(nul, 422)["detail"]
    assert "not JSON" in problem(nan, 400)["detail"]
    assert "not JSON" in problem(surrogate, 400)["detail"]
    assert "nested deeper" in problem(deep, 400)["detail"]
    assert nested.status_code == 201
    assert huge.status_code in (400, 422)
    assert "NUL" in problem(in_query, 422)["detail"]


async def test_a_long_value_is_shortened(submitter: httpx.AsyncClient) -> None:
    response = await submitter.post("/v1/jobs", json=array_job(name="x" * 100_000))

    assert response.json()["title"] == "Unprocessable Content"
    _, value, _ = blamed(response)
    assert value.startswith('"xxx') and len(value) < 250


async def test_bodies_that_are_not_json(submitter: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    broken = await submitter.post("/v1/jobs", content=b'{"name": ', headers=headers)
    text = await submitter.post("/v1/jobs", content=b'{"name": "x"}', headers={"content-type": "text/plain"})
    array = await submitter.post("/v1/jobs", json=[1])
    absent = await submitter.post("/v1/jobs")

    assert "not JSON" in problem(broken, 400)["detail"]
    assert "Content-Type: application/json" in problem(text, 415)["detail"]
    assert blamed(array)[0] == "body"
    assert blamed(absent) == ("body", None, "this field is required")


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_oversized_body_is_refused_with_the_limit(
    submitter: httpx.AsyncClient, settings: Settings, chunked: bool
) -> None:
    async def chunks() -> Any:
        for _ in range(settings.body_bytes_max // 65_536 + 1):
            yield b" " * 65_536

    content = chunks() if chunked else b" " * (settings.body_bytes_max + 1)
    response = await submitter.post("/v1/jobs", content=content, headers={"content-type": "application/json"})

    assert f"limit of {settings.body_bytes_max} bytes" in problem(response, 413)["detail"]
    assert response.json()["title"] == "Content Too Large"


async def test_unknown_ids_are_named(operator: httpx.AsyncClient) -> None:
    for path in ("jobs", "schedules", "workers", "webhook-endpoints"):
        assert UNKNOWN in problem(await operator.get(f"/v1/{path}/{UNKNOWN}"), 404)["detail"]
    for path in ("processors", "pools"):
        assert "nothing" in problem(await operator.get(f"/v1/{path}/nothing"), 404)["detail"]
    for order in ("cancel", "pause", "resume", "retry"):
        assert UNKNOWN in problem(await operator.post(f"/v1/jobs/{UNKNOWN}/{order}"), 404)["detail"]
    assert UNKNOWN in problem(await operator.get(f"/v1/jobs/{UNKNOWN}/tasks"), 404)["detail"]
    assert UNKNOWN in problem(await operator.get(f"/v1/jobs/{UNKNOWN}/results"), 404)["detail"]


async def test_an_id_that_is_none_and_numbers_out_of_range(viewer: httpx.AsyncClient) -> None:
    assert blamed(await viewer.get("/v1/jobs/42"))[:2] == ("job_id", "42")
    assert blamed(await viewer.get("/v1/jobs?limit=501"))[:2] == ("limit", "501")
    assert blamed(await viewer.get(f"/v1/jobs/{UNKNOWN}/tasks/0/99999999999"))[0] == "index"
    assert blamed(await viewer.get("/v1/jobs?state=asleep"))[:2] == ("state.0", "asleep")
    assert blamed(await viewer.get("/v1/jobs?label=claims"))[0] == "label"


async def test_unknown_routes_and_methods(viewer: httpx.AsyncClient) -> None:
    assert "/v1/jobz" in problem(await viewer.get("/v1/jobz"), 404)["detail"]
    response = await viewer.delete("/v1/jobs")
    assert "DELETE" in problem(response, 405)["detail"] and response.headers["allow"]


async def test_a_request_without_a_good_key(app: FastAPI) -> None:
    async with client_of(app) as anonymous:
        for header in (None, "Bearer", "Bearer wrong", "Basic dXNlcjpwYXNz", "Bearer \xff"):
            headers = {"authorization": header.encode("latin-1")} if header else {}
            response = await anonymous.get("/v1/jobs", headers=headers)

            problem(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"


async def test_globs_have_a_bound_in_number_and_in_all(submitter: httpx.AsyncClient) -> None:
    for globs, fix in ([["a"] * 101, "at most 100"], [["[ab]" * 250] * 17, "at most 16384"]):
        for place in ("include", "exclude"):
            source = {"type": "objects", "prefix": "s3://bucket/a/", place: globs}
            for route, body in (("jobs", array_job(input=source)), ("splits", {"input": source})):
                response = await submitter.post(f"/v1/{route}", json=body)
                errors = problem(response, 422)["errors"]
                assert any(each["field"].startswith(f"input.{place}") and fix in each["message"] for each in errors)


@pytest.mark.parametrize(
    ("processor", "field", "fix"),
    [
        ({"sql": "SELEC * FROM input"}, "sql", 'syntax error at or near "SELEC" (LINE 1: SELEC * FROM input)'),
        ({"command": ["sort", "{inptu}"]}, "command.1", "write {input}"),
        ({"command": ["sort", "{inputs.fees}"]}, "command.1", "add it to inputs (declared: none)"),
    ],
)
async def test_a_processor_that_would_fail_every_task_is_not_registered(
    operator: httpx.AsyncClient, processor: dict[str, Any], field: str, fix: str
) -> None:
    refused = await operator.post("/v1/processors", json={"name": "wrong", **processor})
    assert refused.status_code == 422
    assert (blamed(refused)[0], fix in blamed(refused)[2]) == (field, True), refused.text
    assert (await operator.get("/v1/processors/wrong")).status_code == 404


async def test_a_param_that_a_query_does_not_name_is_refused(operator: httpx.AsyncClient) -> None:
    query = "SELECT * FROM input WHERE a > {params.least} AND b < $most"
    await ok(operator.post("/v1/processors", json={"name": "asked", "sql": query}))
    params = {"least": 1, "most": 2, "leats": 3}
    for job, place in (
        (array_job(stages=[{"processor": "asked", "params": params}]), "stages.0"),
        (array_job(merge={"type": "reduce", "processor": "asked", "params": params}), "merge"),
    ):
        refused = await operator.post("/v1/jobs", json=job)
        assert refused.status_code == 422
        assert blamed(refused)[:2] == (f"{place}.params.leats", 3)
        assert "names no such param (it names: least, most)" in blamed(refused)[2]
