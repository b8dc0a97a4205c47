"""The client mirrors the services: it has every operation, parameter and field of their OpenAPI documents, no more."""

import inspect
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict
from uuid import UUID

import pytest

from piecework import shapes
from piecework.client import Client, Listing
from tests.unit.client.conftest import Service, answer
from tests.unit.client.openapi import Operation, is_page, name_of, named_in, operations, resolve, sample, schemas

# Schemas without a shape: errors are exceptions, pages are Page[…], codes are a Literal, and these requests' fields are
# parameters.
NO_SHAPE = {
    "AlertChange",
    "AlertSpec",
    "ApiKeySpec",
    "BackfillSpec",
    "Capacity",
    "FieldError",
    "ItemNumbers",
    "ItemsChunk",
    "PackageSpec",
    "PoolDrain",
    "Problem",
    "ReasonCode",
    "ProcessorRegistration",
    "RetentionRuleSpec",
    "RetryOrder",
    "Rotation",
    "RunRequest",
    "ScheduleSpec",
    "SplitSpec",
    "TriggerSpec",
    "UploadCompletion",
    "UploadSpec",
    "WebhookEndpointSpec",
}

# Methods that are not one operation: they move bytes, or are about the client itself.
OWN_METHODS = {"close", "download", "executor", "now", "push_package", "read_object", "stream_values", "upload"}

# What there must be one of for each schema, and for each operation.
SHAPES = {name for name, value in vars(shapes).items() if is_typeddict(value) and not name.startswith("_")} - {"Page"}
METHODS = {name for name, _ in inspect.getmembers(Client, inspect.isfunction) if name[0] != "_"} - OWN_METHODS

# A mapping for the client, texts such as `month:2026-01` for the API.
OTHER_FORMS = {"label"}

KINDS = {str: "string", UUID: "string", int: "integer", float: "number", bool: "boolean", type(None): "null", Any: None}


def allowed_by_schema(schema: dict[str, Any]) -> frozenset[Any]:
    """What a schema allows, in words that can be compared with those of an annotation."""
    name = name_of(schema)
    if name and "properties" in schemas()[name]:
        return frozenset({name})
    schema = resolve(schema)
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return frozenset().union(*map(allowed_by_schema, choices))
    if values := schema.get("enum") or [schema[key] for key in ("const",) if key in schema]:
        return frozenset(("is", value) for value in values)
    if schema.get("type") == "array":
        return frozenset({("list of", allowed_by_schema(schema["items"]))})
    if schema.get("type") == "object":
        [values] = schema.get("patternProperties", {"": schema.get("additionalProperties")}).values()
        return frozenset({("object of", allowed_by_schema({} if values is True else values))})
    return frozenset({schema.get("type")})


def allowed_by_annotation(annotation: Any) -> frozenset[Any]:
    """The same of a type annotation."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is None:
        return frozenset({KINDS.get(annotation, annotation.__name__)})
    if origin in (Union, types.UnionType):
        return frozenset().union(*map(allowed_by_annotation, arguments))
    if origin is Literal:
        return frozenset(("is", value) for value in arguments)
    if origin in (dict, Mapping):
        return frozenset({("object of", allowed_by_annotation(arguments[1]))})
    assert origin in (list, Sequence, Iterable), annotation
    return frozenset({("list of", allowed_by_annotation(arguments[0]))})


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_shape_has_the_fields_of_its_schema(name: str) -> None:
    shape, schema = getattr(shapes, name), schemas()[name]
    fields = {field: allowed_by_annotation(annotation) for field, annotation in get_type_hints(shape).items()}
    assert fields == {field: allowed_by_schema(described) for field, described in schema["properties"].items()}
    assert shape.__required_keys__ == frozenset(schema.get("required", []))


def test_every_shape_is_of_a_schema() -> None:
    named = named_in([[one.description.get("requestBody"), one.description["responses"]] for one in operations()])
    assert {name for name in named if not is_page(schemas()[name])} - NO_SHAPE == SHAPES


def test_every_method_is_an_operation() -> None:
    assert {operation.name for operation in operations()} == METHODS


@pytest.fixture
def operation(request: pytest.FixtureRequest) -> Operation:
    [operation] = [one for one in operations() if one.name == request.param]
    return operation


for_every_operation = pytest.mark.parametrize("operation", sorted(METHODS), indirect=True)


@for_every_operation
def test_a_method_answers_with_the_shape_of_the_operation(operation: Operation) -> None:
    returned = get_type_hints(getattr(Client, operation.name))["return"]
    if operation.answer and is_page(schemas()[operation.answer]):
        [item] = allowed_by_schema(schemas()[operation.answer]["properties"]["items"])
        assert (get_origin(returned), allowed_by_annotation(get_args(returned)[0])) == (Listing, item[1])
    else:
        assert allowed_by_annotation(returned) == {operation.answer or "null"}


@for_every_operation
def test_a_method_takes_what_the_operation_takes(operation: Operation) -> None:
    method = getattr(Client, operation.name)
    hints = get_type_hints(method)
    taken = {argument(one["name"]): one["schema"] for one in operation.parameters}
    taken |= operation.body.get("properties", {})
    required = {argument(one["name"]) for one in operation.parameters if one["required"]}
    required |= set(operation.body.get("required", []))
    if "spec" in hints:
        [spec] = [one for one in get_args(hints["spec"]) if is_typeddict(one)]
        taken = {name: schema for name, schema in taken.items() if name not in get_type_hints(spec)} | {"spec": {}}
        required = (required - spec.__required_keys__) | {"spec"}
    _, *parameters = inspect.signature(method).parameters.values()
    assert {parameter.name for parameter in parameters} == set(taken)
    assert {one.name for one in parameters if one.default is inspect.Parameter.empty} == required
    for name in taken.keys() - OTHER_FORMS - {"spec"}:
        assert allowed_by_schema(taken[name]) - {"null"} <= allowed_by_annotation(hints[name]), name


@for_every_operation
def test_a_method_sends_all_that_it_was_given(operation: Operation, client: Client, service: Service) -> None:
    method = getattr(client, operation.name)
    places = {place: operation.samples(place) for place in ("path", "query", "header")}
    body = sample(operation.body)
    given = {argument(name): value for values in (*places.values(), body) for name, value in values.items()}
    if "label" in given:
        given["label"] = {"month": "2026-01"}
        places["query"]["label"] = ["month:2026-01"]
    names = inspect.signature(method).parameters
    if "spec" in names:
        given["spec"] = {name: given.pop(name) for name in body if name not in names}
    path = operation.path.format(**places["path"])
    service.on(operation.method, path, answer({}))

    answered = method(**given)
    if isinstance(answered, Listing):
        answered.page(7, "c1")
        places["query"] |= {"limit": 7, "cursor": "c1"}

    [asked] = service.requests(operation.method, path)
    assert asked.query == {name: list(map(text_of, listed(value))) for name, value in places["query"].items()}
    assert {name: asked.headers[name.lower()] for name in places["header"]} == places["header"]
    assert asked.body == body if operation.body else asked.content == b""


def argument(name: str) -> str:
    """The method's parameter for a header or parameter of the API."""
    return name.lower().replace("-", "_")


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def text_of(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
