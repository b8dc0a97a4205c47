"""Registering and inspecting processors."""

from typing import Any

import httpx
import pytest

from services.platform.database import Database
from tests.integration.api.conftest import array_job, ok


async def test_a_changed_processor_is_a_new_version_and_an_unchanged_one_is_not(operator: httpx.AsyncClient) -> None:
    one = {"name": "clean", "records": "flights:clean", "description": "drops cancelled flights"}
    two = one | {"output_format": "csv"}

    versions = [(await ok(operator.post("/v1/processors", json=body)))["version"] for body in (one, one, two)]

    assert versions == [1, 1, 2]
    newest = await ok(operator.get("/v1/processors/clean"))
    assert (newest["version"], newest["versions"], newest["spec"]["output_format"]) == (2, [1, 2], "csv")
    first = await ok(operator.get("/v1/processors/clean?version=1"))
    assert (first["version"], first["description"]) == (1, "drops cancelled flights")
    assert (await operator.get("/v1/processors/clean?version=3")).status_code == 404
    await ok(operator.post("/v1/processors", json={"name": "a", "builtin": "noop"}))
    listed = (await ok(operator.get("/v1/processors")))["items"]
    assert [(each["name"], each["version"]) for each in listed] == [("a", 1), ("clean", 2)]  # not Piecework's own


async def test_bad_processors_are_refused_by_field(operator: httpx.AsyncClient, subtests: pytest.Subtests) -> None:
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"builtin": "noop", "command": ["true"]}, "body", "exactly one of"),
        ({}, "body", "exactly one of"),
        ({"name": "piecework-x", "builtin": "noop"}, "name", "Piecework's own"),
        ({"builtin": "rm"}, "builtin", "'noop'"),
        ({"callable": "no colon"}, "callable", "pattern"),
        ({"command": []}, "command", "at least 1"),
        ({"builtin": "noop", "name": "a b"}, "name", "letters, digits"),
        ({"builtin": "noop", "environment": {"A=B": "c"}}, "environment.A=B", "letters, digits and '_'"),
        ({"command": ["x"], "package": "0" * 64}, "package", "`piecework processors push DIR` pushes one"),
        ({"builtin": "noop", "params_schema": {"type": "int"}}, "params_schema.type", "not a JSON Schema"),
        ({"builtin": "noop", "params_schema": {"$ref": "#/$defs/x"}}, "params_schema", "leads nowhere"),
        ({"builtin": "noop", "params_schema": {"$ref": "http://127.0.0.1:1/x"}}, "params_schema", "leads nowhere"),
    ]
    for changes, field, fix in cases:
        with subtests.test(field, changes=changes):
            response = await operator.post("/v1/processors", json={"name": "x"} | changes)

            assert response.status_code == 422
            [error] = response.json()["errors"]
            assert error["field"] == field and fix in error["message"]


async def test_a_schema_may_refer_to_its_own_definitions(operator: httpx.AsyncClient) -> None:
    schema = {"$defs": {"rate": {"type": "integer"}}, "properties": {"rate": {"$ref": "#/$defs/rate"}}}

    created = await ok(operator.post("/v1/processors", json={"name": "x", "builtin": "noop", "params_schema": schema}))

    assert created["spec"]["params_schema"] == schema


NEWER_SPECS: list[dict[str, Any]] = [
    {"builtin": "noop", "field_of_the_next_release": True},
    {"quantum": "entangle:pairs"},
    {"records": "flights:clean", "output_format": "orc9"},
]


@pytest.mark.parametrize("spec", NEWER_SPECS)
async def test_a_processor_that_a_newer_release_has_registered_is_shown_as_it_stands(
    operator: httpx.AsyncClient, database: Database, spec: dict[str, Any]
) -> None:
    await ok(operator.post("/v1/processors", json={"name": "known", "builtin": "noop"}))
    await database.execute("INSERT INTO processors (name, version, spec) VALUES ('newer', 1, $1)", spec)

    assert (await ok(operator.get("/v1/processors/newer")))["spec"] == spec
    listed = (await ok(operator.get("/v1/processors")))["items"]
    assert [each["name"] for each in listed] == ["known", "newer"]
    assert listed[1]["spec"] == spec


@pytest.mark.usefixtures("grid")
@pytest.mark.parametrize(("spec", "status"), list(zip(NEWER_SPECS, [201, 422, 422], strict=True)))
async def test_a_job_may_use_it_as_far_as_this_release_can_read_it(
    operator: httpx.AsyncClient, database: Database, spec: dict[str, Any], status: int
) -> None:
    await database.execute("INSERT INTO processors (name, version, spec) VALUES ('newer', 1, $1)", spec)

    response = await operator.post("/v1/jobs", json=array_job(stages=[{"processor": "newer"}]))

    assert response.status_code == status
    if status == 422:
        [error] = response.json()["errors"]
        assert (error["field"], error["value"]) == ("stages.0.processor", "newer")
        assert "registered by a newer release" in error["message"]


async def test_what_an_older_release_has_registered_is_not_another_version(
    operator: httpx.AsyncClient, database: Database
) -> None:
    body = {"name": "clean", "records": "flights:clean"}
    await ok(operator.post("/v1/processors", json=body))
    await database.execute("UPDATE processors SET spec = spec - 'idempotent' WHERE name = 'clean'")  # a later option

    assert (await ok(operator.post("/v1/processors", json=body)))["version"] == 1
    assert (await ok(operator.get("/v1/processors/clean")))["spec"]["idempotent"] is False


async def test_values_of_the_environment_are_for_those_who_may_register(
    operator: httpx.AsyncClient, submitter: httpx.AsyncClient, viewer: httpx.AsyncClient, database: Database
) -> None:
    spec = {"name": "partner", "command": ["true"], "environment": {"PARTNER_TOKEN": "hush", "EMPTY": ""}}
    key = {"Idempotency-Key": "once"}
    registered = await ok(operator.post("/v1/processors", json=spec, headers=key))
    assert registered["spec"]["environment"] == spec["environment"]
    assert await ok(operator.post("/v1/processors", json=spec, headers=key)) == registered
    # A newer release's, which this one can't read.
    await database.execute(
        "INSERT INTO processors (name, version, spec) SELECT 'newer', 1, spec || '{\"unknown\": 1}' FROM processors "
        "WHERE name = 'partner'"
    )
    for client in (viewer, submitter):
        for name in ("partner", "newer"):
            shown = await ok(client.get(f"/v1/processors/{name}"))
            assert shown["spec"]["environment"] == {"PARTNER_TOKEN": "***", "EMPTY": "***"}
        assert "hush" not in (await client.get("/v1/processors")).text
    assert (await ok(operator.get("/v1/processors/newer")))["spec"]["environment"]["PARTNER_TOKEN"] == "hush"
