"""A processor's JSON Schema (2020-12) of its params: complete in itself, and checked in bounded time.

Patterns are RE2's (https://github.com/google/re2/wiki/Syntax), whose time grows with the text alone.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jsonschema
import orjson
import re2
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from services.engine.errors import SpecError

BYTES_MAX = 65_536
DEPTH_MAX = 64
STEPS_MAX = 100_000  # keywords evaluated for one check: about a second
_REFERENCE_STEPS = 8  # to follow one takes as long as eight other keywords
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NOWHERE: Registry[Any] = Registry()  # finds nothing beyond the schema itself, and fetches nothing

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class _TooLong(Exception):
    """The check took more than STEPS_MAX steps."""


class _Unsupported(Exception):
    """An older release has taken a schema that this one refuses."""


_steps: ContextVar[list[int]] = ContextVar("steps")


def _spend(steps: int) -> None:
    left = _steps.get()
    left[0] -= steps
    if left[0] < 0:
        raise _TooLong


def _counted(keyword: Keyword, steps: int) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        _spend(steps)
        yield from keyword(validator, value, instance, schema) or ()

    return check


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not _compile(pattern).search(instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    for pattern, described in patterns.items():
        matches = _compile(pattern).search
        for name, value in instance.items():
            _spend(1)
            if matches(name):
                yield from validator.descend(value, described, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, described: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    patterns = [_compile(pattern) for pattern in schema.get("patternProperties", {})]
    for name, value in instance.items():
        _spend(1 + len(patterns))
        if name not in schema.get("properties", {}) and not any(each.search(name) for each in patterns):
            if described is False:
                yield ValidationError(f"Additional properties are not allowed ({name!r} was unexpected)")
            else:
                yield from validator.descend(value, described, path=name)


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if unique and validator.is_type(instance, "array"):
        _spend(len(instance) ** 2 // 100)  # each may be compared with each
        yield from Draft202012Validator.VALIDATORS["uniqueItems"](validator, unique, instance, schema) or ()


def _unevaluated_properties(validator: Any, described: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    raise _Unsupported("it has unevaluatedProperties")  # the library's code for it searches with `re`


_OWN: dict[str, Keyword] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
    "unevaluatedProperties": _unevaluated_properties,
}
_KEYWORDS: Mapping[str, Any] = Draft202012Validator.VALIDATORS
_Validator: Any = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {
        name: _counted(_OWN.get(name, keyword), _REFERENCE_STEPS if name in ("$ref", "$dynamicRef") else 1)
        for name, keyword in _KEYWORDS.items()
    },
)


def _compile(pattern: str) -> Any:
    """Raises re2.error. RE2 keeps compiled patterns, and limits the memory of each."""
    return re2.compile(pattern, _options())


def _options() -> Any:
    options = re2.Options()
    options.log_errors = False
    return options


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises SpecError for `params_schema` unless it can be used as it stands."""
    _check_size(schema)
    for path, name, value in _members(schema, ()):
        _check_member(".".join(path), name, value)
    try:
        Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        place = ".".join(["params_schema", *map(str, error.absolute_path)])
        raise SpecError(place, error.instance, f"not a JSON Schema (2020-12): {error.message}") from error
    resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    for _, name, value in _members(schema, ()):
        if name in ("$ref", "$dynamicRef") and isinstance(value, str):
            try:
                resolver.lookup(value)
            except Unresolvable as error:
                fix = f"this {name} leads nowhere inside the schema: write '#/$defs/name', and describe it there"
                raise SpecError("params_schema", value, fix) from error


def _check_size(schema: Mapping[str, Any]) -> None:
    size, depth = len(orjson.dumps(schema)), _depth(schema)
    if size > BYTES_MAX:
        raise SpecError("params_schema", f"{size} bytes", f"at most {BYTES_MAX} bytes of JSON: make it simpler")
    if depth > DEPTH_MAX:
        raise SpecError("params_schema", f"{depth} levels", f"at most {DEPTH_MAX} levels: use $defs and $ref")


def _depth(value: Any) -> int:
    if not isinstance(value, Mapping | list):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, Mapping) else value), default=0)


def _members(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Each member of each mapping: the path to it from `params_schema` on, its name, its value."""
    path = path or ("params_schema",)
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield (*path, name), name, member
            yield from _members(member, (*path, name))
    elif isinstance(value, list):
        for number, member in enumerate(value):
            yield from _members(member, (*path, str(number)))


def _check_member(path: str, name: str, value: Any) -> None:
    """Raises SpecError for what leads out of the schema, or has no bounded time."""
    match name, value:
        case "$id", str():
            raise SpecError(path, value, "a schema of params has no $id: leave it out, and write $ref: '#/$defs/…'")
        case "$schema", str() if value.rstrip("#") != _DIALECT:
            raise SpecError(path, value, f"schemas are of JSON Schema 2020-12: write {_DIALECT}, or leave it out")
        case "pattern", str():
            _check_pattern(path, value)
        case "patternProperties", Mapping():
            for pattern in value:
                _check_pattern(path, pattern)
        case "unevaluatedProperties", _:
            raise SpecError(path, value, "this keyword is not supported: write additionalProperties")


def _check_pattern(path: str, pattern: str) -> None:
    try:
        _compile(pattern)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else error.args[0]
        fix = f"patterns are RE2's, without lookarounds and backreferences ({reason})"
        raise SpecError(path, pattern, fix) from error


@contextmanager
def _bounded() -> Iterator[None]:
    token = _steps.set([STEPS_MAX])
    try:
        yield
    finally:
        _steps.reset(token)


def check_params(params: Mapping[str, Any], schema: Mapping[str, Any] | None, field: str) -> None:
    """Check params against a processor's schema; raises SpecError for the first mismatch.

    An older release may have registered a schema that this one refuses: then the error says so.
    """
    if schema is None:
        return
    try:
        with _bounded():
            error = best_match(_Validator(schema, registry=_NOWHERE).iter_errors(params))
    except RecursionError as endless:
        raise SpecError(field, params, "nested too deeply for the processor's params_schema") from endless
    except _TooLong as endless:
        fix = "the processor's params_schema needs too many steps to check these: send less, or simplify the schema"
        raise SpecError(field, params, fix) from endless
    except (Unresolvable, _Unsupported, re2.error) as unusable:
        fix = f"the processor's params_schema can't be used ({unusable}): have it registered again"
        raise SpecError(field, params, fix) from unusable
    if error is not None:
        path = ".".join(str(part) for part in [field, *error.absolute_path])
        raise SpecError(path, error.instance, error.message)
