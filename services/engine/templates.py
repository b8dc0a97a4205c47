"""Templates: values with `{placeholders}`, filled in from what a message says."""

import re
from collections.abc import Mapping
from typing import Any

import orjson

_PLACEHOLDER = re.compile(r"\{([a-z_]+(?:\.\w+)*)\}")


class MissingValue(LookupError):
    """The message has nothing to put in a placeholder's place; the message names it."""


class AnyField(dict[str, "AnyField"]):
    """Stands for any field of a message that is not there yet, and has every field; within a text it is an `x`."""

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> "AnyField":
        return AnyField()


def fill_template(template: Any, values: Mapping[str, Any]) -> Any:
    """The template with each `{name}` or `{name.field.field}` replaced, in keys of no mapping but in every string.

    A string that is one placeholder becomes its value, of whatever type; within a longer string a value that is no
    text is written as JSON. Raises MissingValue.
    """
    if isinstance(template, Mapping):
        return {key: fill_template(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [fill_template(value, values) for value in template]
    if not isinstance(template, str):
        return template
    if whole := _PLACEHOLDER.fullmatch(template):
        return find_value(whole[1], values)
    return _PLACEHOLDER.sub(lambda match: _text(find_value(match[1], values)), template)


def find_value(path: str, values: Any) -> Any:
    """The value at a dotted path of mappings and lists; raises MissingValue."""
    found = values
    for name in path.split("."):
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, Mapping) and name in found:
            found = found[name]
        else:
            raise MissingValue(f"{{{path}}}: the message has no {name!r}")
    return found


def _text(value: Any) -> str:
    if isinstance(value, AnyField):
        return "x"
    return value if isinstance(value, str) else orjson.dumps(value).decode()
