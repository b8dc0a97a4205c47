"""The OpenAPI documents of the services that the client mirrors."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from services.api import main as api
from services.stats import main as stats

PROBES = ("healthz", "readyz", "metrics")  # for load balancers and Prometheus, not for users

# What a parameter takes in the tests, by the type in its schema.
_SAMPLES = {"string": "x", "integer": 7, "number": 0.5, "boolean": True, "null": None}


@cache
def documents() -> list[dict[str, Any]]:
    return [api.app.openapi(), stats.app.openapi()]


@cache
def schemas() -> dict[str, Any]:
    """Those of both documents, by name."""
    return {name: schema for each in documents() for name, schema in each["components"]["schemas"].items()}


@dataclass(frozen=True)
class Operation:
    """A path with a method, as its document describes it."""

    name: str
    method: str
    path: str
    description: dict[str, Any]

    def is_asked_by(self, route: str) -> bool:
        """Whether a request such as `GET /v1/jobs/7` is this operation's."""
        return re.fullmatch(f"{self.method} {re.sub('{[^}]*}', '[^/]+', self.path)}", route) is not None

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """Those in the path, the query and the headers, but for the cursor and the size of pages."""
        described = self.description.get("parameters", [])
        paging = {"limit", "cursor"} if self.answer and is_page(schemas()[self.answer]) else set()
        return [one for one in described if one["name"] not in paging]

    def samples(self, place: str) -> dict[str, Any]:
        """A value for each parameter in the `path`, the `query` or the `header`."""
        return {one["name"]: sample(one["schema"]) for one in self.parameters if one["in"] == place}

    @property
    def body(self) -> dict[str, Any]:
        """The schema of the object that it takes; empty if none."""
        if "requestBody" not in self.description:
            return {}
        found: dict[str, Any] = resolve(self.description["requestBody"]["content"]["application/json"]["schema"])
        return found

    @property
    def answer(self) -> str | None:
        """The name of the answer's schema, if it has content."""
        answers = [answer for status, answer in self.description["responses"].items() if status.startswith("2")]
        [name] = {name_of(a["content"]["application/json"]["schema"]) if "content" in a else None for a in answers}
        return name


def operations() -> Iterator[Operation]:
    for document in documents():
        for path, methods in document["paths"].items():
            for method, description in methods.items():
                if description["operationId"] not in PROBES:
                    yield Operation(description["operationId"], method.upper(), path, description)


def name_of(schema: dict[str, Any]) -> str | None:
    return schema["$ref"].rpartition("/")[2] if "$ref" in schema else None


def is_page(schema: dict[str, Any]) -> bool:
    return set(schema.get("properties", {})) == {"items", "next_cursor"}


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    name = name_of(schema)
    found: dict[str, Any] = schemas()[name] if name else schema
    return found


def named_in(schema: Any) -> set[str]:
    """The names of all schemas that this one is made of, its own included."""
    found: set[str] = set()
    waiting = [schema]
    while waiting:
        match waiting.pop():
            case {"$ref": str(reference)}:
                name = reference.rpartition("/")[2]
                if name not in found:
                    found.add(name)
                    waiting.append(schemas()[name])
            case dict(parts):
                waiting += parts.values()
            case list(parts):
                waiting += parts
    return found


def sample(schema: dict[str, Any]) -> Any:
    """A value of this schema, with every field that there can be."""
    schema = resolve(schema)
    if not schema:
        return {}
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return sample(schema[choice][0])
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    if schema.get("type") == "array":
        return [sample(schema["items"])]
    if schema.get("type") == "object":
        return {name: sample(field) for name, field in schema.get("properties", {}).items()}
    if schema.get("format") == "uuid":
        return "01970000-0000-7000-8000-00000000000a"
    return _SAMPLES.get(schema.get("type", "null"))
