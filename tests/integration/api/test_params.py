"""What the params of a job may be: what a command's arguments bear, and what the processor's schema allows."""

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import product
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest

from services.platform.database import Database
from tests.integration.api.conftest import array_job, ok
from tests.integration.api.test_bad_input import blamed

pytestmark = pytest.mark.usefixtures("grid")

TEXT = {"properties": {"x": {"type": "string"}}}
ANY = {"type": "object", "additionalProperties": True, "properties": {"x": {"description": "whatever"}}}


def job_of(processor: str, **params: Any) -> dict[str, Any]:
    return array_job(stages=[{"processor": processor, "params": params}])


async def test_a_param_does_not_make_an_argument_an_option(operator: httpx.AsyncClient) -> None:
    described = {"properties": {"x": {"type": ["string", "number"]}}}
    for schema, argument in product(
        (None, described, ANY), ("{params.x}", "{params.x}.txt", "{params.e}{params.x}", "{params.x}{params.y}")
    ):
        spec = {"name": "sorted", "command": ["sort", argument, "{input}"], "params_schema": schema}
        await ok(operator.post("/v1/processors", json=spec))
        for value in ("-I", "--to-command=id", "-", -5, -0.5):
            response = await operator.post("/v1/jobs", json=job_of("sorted", x=value, e="", y="k"))

            field, found, fix = blamed(response)
            assert (field, found) == ("stages.0.params.x", value)
            assert "allow_options" in fix or "params_schema" in fix


async def test_a_param_may_be_an_option_if_the_processor_says_so_or_if_it_stands_behind_text(
    operator: httpx.AsyncClient,
) -> None:
    command = ["sort", "{params.x}", "--key={params.y}", "-{params.z}"]
    spec = {"name": "sorted", "command": command, "params_schema": TEXT, "allow_options": ["x"]}
    await ok(operator.post("/v1/processors", json=spec))

    await ok(operator.post("/v1/jobs", json=job_of("sorted", x="--reverse", y=-1, z="r")))


async def test_a_param_that_no_schema_describes_is_a_plain_word_in_a_command(operator: httpx.AsyncClient) -> None:
    bad = ("/etc/passwd", "a b", "$(id)", "a;b", "../up", "x=y", "w" * 257, "a\nb", ["a"], {"a": 1}, None, "@/x")
    good = (3, -2.5, True, "2026-11-29T10:00:00+01:00", "50%", "a.b,c:d", "größe_1", "", "e@x.de")
    for schema in (None, {}, ANY, {"additionalProperties": {"type": ["string", "number"]}}):
        spec = {"name": "named", "command": ["crop", "--width={params.x}"], "params_schema": schema}
        await ok(operator.post("/v1/processors", json=spec))
        for value in bad if schema is not ANY else bad[:1]:
            response = await operator.post("/v1/jobs", json=job_of("named", x=value))
            if schema and "additionalProperties" in schema and not isinstance(value, str):
                assert response.status_code == 422  # already by the schema
                continue
            assert blamed(response)[0] == "stages.0.params.x" and "params_schema" in blamed(response)[2]
        for value in good if schema is None else good[:1]:
            await ok(operator.post("/v1/jobs", json=job_of("named", x=value)))


async def test_a_described_param_may_be_all_that_its_schema_allows(operator: httpx.AsyncClient) -> None:
    schema = {"properties": {"x": {"type": ["string", "array"]}}}
    spec = {"name": "named", "command": ["crop", "{params.x}"], "params_schema": schema}
    await ok(operator.post("/v1/processors", json=spec))

    for value in ("s3://bucket/a b", ["-x", 1]):
        await ok(operator.post("/v1/jobs", json=job_of("named", x=value)))


async def test_params_of_functions_are_values(operator: httpx.AsyncClient) -> None:
    await ok(operator.post("/v1/processors", json={"name": "called", "callable": "words:count"}))
    await ok(operator.post("/v1/processors", json={"name": "asked", "sql": "SELECT {params.x} FROM input"}))

    for name in ("called", "asked"):
        await ok(operator.post("/v1/jobs", json=job_of(name, x="-rf / --no; $(id)")))


async def test_a_param_is_not_the_program(operator: httpx.AsyncClient, database: Database) -> None:
    for version, program in enumerate(("{params.x}", "bin/{params.x}", "{params.x}.sh"), start=1):
        spec = {"command": [program], "params_schema": TEXT}
        response = await operator.post("/v1/processors", json={"name": "any", **spec})

        assert response.status_code == 422 and "a param can't be the program itself" in response.text
        # as a release before registered it
        await database.execute("INSERT INTO processors (name, version, spec) VALUES ('any', $1, $2)", version, spec)
        assert blamed(await operator.post("/v1/jobs", json=job_of("any", x="id")))[0] == "stages.0.processor"


@pytest.fixture
def asked() -> Any:
    """A server on this machine: its URL, and what it was asked for."""
    paths: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", paths
    server.shutdown()
    server.server_close()


def leading_out(url: str) -> list[dict[str, Any]]:
    defined = {"$defs": {"q": {}}}
    return [
        {"$ref": f"{url}/plain"},
        {"$ref": "#/x-thing", "x-thing": {"allOf": [{"$id": f"{url}/hidden", "$ref": "#/$defs/q"}]}, **defined},
        {"$id": f"{url}/root", "$ref": "other"},
        {"properties": {"x": {"$dynamicRef": f"{url}/dynamic"}}},
        {"$schema": f"{url}/dialect"},
        {"allOf": [{"$schema": f"{url}/dialect", "properties": {}}]},
    ]


async def test_a_schema_that_leads_out_of_itself_is_refused_and_nothing_is_fetched(
    operator: httpx.AsyncClient, database: Database, asked: Any, tmp_path: Path
) -> None:
    url, paths = asked
    (tmp_path / "secret.json").write_text('"SECRET"')

    for base in (url, tmp_path.as_uri()):
        for number, schema in enumerate(leading_out(base)):
            spec = {"builtin": "noop", "params_schema": schema}
            response = await operator.post("/v1/processors", json={"name": "led", **spec})
            assert response.status_code == 422, schema
            name = f"old-{number}-{len(base)}"  # as a release before registered it
            await database.execute("INSERT INTO processors (name, version, spec) VALUES ($1, 1, $2)", name, spec)
            response = await operator.post("/v1/jobs", json=job_of(name, x=1))
            assert response.status_code in (201, 422) and "SECRET" not in response.text, response.text

    assert paths == []


async def test_a_schema_without_a_bound_is_refused(operator: httpx.AsyncClient) -> None:
    deep: Any = {}
    for _ in range(70):
        deep = {"not": deep}
    cases: list[tuple[Any, str]] = [
        ({"properties": {"x": {"pattern": "(?=a)"}}}, "RE2"),
        ({"patternProperties": {r"(a)\1": {}}}, "RE2"),
        ({"unevaluatedProperties": False}, "additionalProperties"),
        ({"enum": ["x" * 70_000]}, "65536 bytes"),
        (deep, "64 levels"),
    ]
    for schema, fix in cases:
        response = await operator.post(
            "/v1/processors", json={"name": "bad", "builtin": "noop", "params_schema": schema}
        )

        assert blamed(response)[0].startswith("params_schema") and fix in blamed(response)[2]


async def test_params_are_checked_in_bounded_time_beside_other_requests(operator: httpx.AsyncClient) -> None:
    branching = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": False}
    cases: list[tuple[Any, dict[str, Any]]] = [
        ({"properties": {"x": {"pattern": "^(a+)+$"}}}, {"x": "a" * 100_000 + "!"}),
        ({"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}, {"a" * 190 + "!": 1}),
        ({"properties": {"x": {"uniqueItems": True}}}, {"x": [{"n": n} for n in range(20_000)]}),
        ({"$defs": branching, "$ref": "#/$defs/d0"}, {}),
    ]
    for schema, params in cases:
        await ok(operator.post("/v1/processors", json={"name": "slow", "builtin": "noop", "params_schema": schema}))

        began = monotonic()
        response, health = await asyncio.gather(
            operator.post("/v1/jobs", json=job_of("slow", **params)), operator.get("/healthz")
        )

        assert response.status_code == 422 and health.status_code == 200
        assert monotonic() - began < 30  # the exponential and quadratic ones would take hours
