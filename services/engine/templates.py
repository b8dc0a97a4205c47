"""Templates: values with `{placeholders}`, which are filled in from a message."""

import re
from collections.abc import Mapping
from typing import Any

import orjson

_PLACEHOLDER = re.compile(r"\{([a-z_]+(?:\.\w+)*)\}")


class MissingValue(LookupError):
    """A message lacks the value of a placeholder; the error's text names the placeholder."""


class AnyField(dict[str, "AnyField"]):
    """Stands for any field of a message that has not arrived yet: it has every field, and its text is `x`."""

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> "AnyField":
        return AnyField()


def fill_template(template: Any, values: Mapping[str, Any]) -> Any:
    """The template with each `{name}` or `{name.field.field}` replaced in every string, but not in keys of mappings.

    A string that is just one placeholder becomes its value, of any type. Within a longer string, a value that is not
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
