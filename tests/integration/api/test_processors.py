"""Registering and inspecting processors."""

from typing import Any

import httpx
import pytest

from tests.integration.api.conftest import ok


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
    for changes, field, mend in cases:
        with subtests.test(field, changes=changes):
            response = await operator.post("/v1/processors", json={"name": "x"} | changes)

            assert response.status_code == 422
            [error] = response.json()["errors"]
            assert error["field"] == field and mend in error["message"]


async def test_a_schema_may_refer_to_its_own_definitions(operator: httpx.AsyncClient) -> None:
    schema = {"$defs": {"rate": {"type": "integer"}}, "properties": {"rate": {"$ref": "#/$defs/rate"}}}

    created = await ok(operator.post("/v1/processors", json={"name": "x", "builtin": "noop", "params_schema": schema}))

    assert created["spec"]["params_schema"] == schema
