"""The OpenAPI document and its pages."""

import re
from importlib import import_module
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from openapi_spec_validator import validate

from services.api.main import create_app
from services.platform.settings import ApiSettings


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(ApiSettings())


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_every_operation_is_documented(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", operation["operationId"]), name
        assert operation["summary"] and operation["description"] and operation["tags"], name
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                assert parameter["schema"]["examples"], f"{name} {parameter['name']}"


def test_every_body_has_examples_that_the_schema_accepts(document: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator

    for name, operation in operations(document).items():
        if "requestBody" in operation:
            content = operation["requestBody"]["content"]["application/json"]
            validator = Draft202012Validator(content["schema"] | {"components": document["components"]})
            assert content["examples"], name
            for example in content["examples"].values():
                assert example["summary"], name
                validator.validate(example["value"])


def test_every_answer_has_a_schema_and_every_error_is_a_problem(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        for status, response in operation["responses"].items():
            if status >= "400":
                assert set(response["content"]) == {"application/problem+json"}, name
                reference = response["content"]["application/problem+json"]["schema"]
                assert reference == {"$ref": "#/components/schemas/Problem"}, name
            elif status != "204":
                assert response["content"]["application/json"]["schema"], name
        if name.split()[1].startswith("/v1"):
            assert {"401", "403", "422", "503"} <= set(operation["responses"]), name


def test_every_creation_takes_an_idempotency_key(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        headers = {parameter["name"].lower() for parameter in operation.get("parameters", [])}
        assert ("idempotency-key" in headers) == ("201" in operation["responses"]), name


def test_authorize_takes_a_bearer_key(document: dict[str, Any]) -> None:
    [scheme] = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_the_pages_work_without_the_internet(app: FastAPI, page: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        html = (await client.get(page)).text
        assert "http://" not in html and "https://" not in html
        assets = re.findall(r"""(?:src|href|url|spec-url)\s*[=:]\s*['"]([^'"]+)""", html)
        assert len(assets) >= 3
        for asset in assets:
            assert asset.startswith("/") and not asset.startswith("//"), asset
            response = await client.get(asset)
            assert response.status_code == 200 and response.content, asset


def unbounded(schema: Any, document: dict[str, Any], place: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """The places of a request's schema where it takes text, a list or an object of any size."""
    if (reference := schema.get("$ref")) is not None:
        name = reference.rpartition("/")[2]
        known = document["components"]["schemas"][name]
        return set() if name in seen else unbounded(known, document, place, seen | {name})
    found: set[str] = set()
    fixed = schema.keys() & {"enum", "const"} or schema.get("format") in ("uuid", "date-time")
    if schema.get("type") == "string" and not fixed and "maxLength" not in schema:
        found.add(f"{place}: text without maxLength")
    if schema.get("type") == "array":
        if "maxItems" not in schema:
            found.add(f"{place}: a list without maxItems")
        found |= unbounded(schema.get("items", {}), document, f"{place}[]", seen)
    if isinstance(further := schema.get("additionalProperties"), dict) or further is True:
        if "maxProperties" not in schema:
            found.add(f"{place}: an object without maxProperties")
        found |= unbounded(further if isinstance(further, dict) else {}, document, f"{place}{{}}", seen)
    for described in schema.get("patternProperties", {}).values():
        if "maxProperties" not in schema:
            found.add(f"{place}: an object without maxProperties")
        found |= unbounded(described, document, f"{place}{{}}", seen)
    if "propertyNames" in schema:
        found |= unbounded({"type": "string"} | schema["propertyNames"], document, f"{place} (names)", seen)
    for name, member in schema.get("properties", {}).items():
        found |= unbounded(member, document, f"{place}.{name}", seen)
    for each in ("anyOf", "oneOf", "allOf"):
        for choice in schema.get(each, []):
            found |= unbounded(choice, document, place, seen)
    return found


def test_whatever_a_request_takes_has_a_bound(document: dict[str, Any]) -> None:
    found: set[str] = set()
    for name, operation in operations(document).items():
        for parameter in operation.get("parameters", []):
            found |= unbounded(parameter["schema"], document, f"{name} ?{parameter['name']}")
        if "requestBody" in operation:
            found |= unbounded(operation["requestBody"]["content"]["application/json"]["schema"], document, name)

    assert sorted(found) == []


@pytest.mark.parametrize("service", ["api", "stats"])
async def test_browsers_frame_nothing_sniff_nothing_and_keep_no_key(service: str) -> None:
    served = import_module(f"services.{service}.main").create_app(ApiSettings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://service") as client:
        for path in ("/docs", "/redoc", "/openapi.json", "/healthz", "/nowhere"):
            response = await client.get(path)
            policy = response.headers["content-security-policy"]
            assert response.headers["x-content-type-options"] == "nosniff", path
            assert response.headers["referrer-policy"] == "no-referrer"
            assert "frame-ancestors 'none'" in policy and "default-src 'none'" in policy
            assert ("script-src" in policy) == (path in ("/docs", "/redoc"))
            assert 'persistAuthorization": true' not in response.text
