"""What params may say in a command: whoever submits a job chooses values, never options or the program."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from services.contract.params import PLACEHOLDER
from services.engine.spec import ProcessorSpec

WORD_CHARACTERS_MAX = 256
_WORD = re.compile(rf"(?:[\w.][\w.:,+@%-]{{0,{WORD_CHARACTERS_MAX - 1}}})?")
_SAYS_NOTHING = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}


class BadArgument(ValueError):
    """A param's value that may not be (a part of) an argument; the text is the fix."""

    def __init__(self, name: str, value: Any, fix: str) -> None:
        super().__init__(fix)
        self.name = name
        self.value = value


def param_text(value: Any) -> str:
    """A param as it is written into an argument: text as it is, all else as JSON."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def names_its_program(processor: ProcessorSpec) -> bool:
    """Whether params choose the program that a command runs. (It may be the first argument of an image's program.)"""
    return any(name for argument in processor.arguments[:1] for name in _params_in(argument))


def check_arguments(processor: ProcessorSpec, params: Mapping[str, Any]) -> None:
    """Raises BadArgument for the first param that the command may not get. Params that are missing are not looked at.

    A param that `params_schema` describes may have any value that it allows. Others are numbers, booleans and plain
    words. An argument that begins with a param does not begin with `-`, unless `allow_options` names the param.
    """
    for argument in processor.arguments:
        for name in _params_in(argument):
            if name in params and not _is_described(processor.params_schema, name):
                _check_word(name, params[name], name in (processor.allow_options or ()))
        _check_beginning(argument, params, processor.allow_options or ())


def _params_in(argument: str) -> Iterator[str]:
    return (match[3] for match in PLACEHOLDER.finditer(argument) if match[2] == "params")


def _is_described(schema: Mapping[str, Any] | None, name: str) -> bool:
    """Whether the schema says something about the values of this very param."""
    properties = (schema or {}).get("properties")
    said = properties.get(name) if isinstance(properties, Mapping) else None
    return isinstance(said, Mapping) and not said.keys() <= _SAYS_NOTHING


def _check_word(name: str, value: Any, may_be_option: bool) -> None:
    if isinstance(value, bool | int | float):
        return
    word = value.lstrip("-") if may_be_option and isinstance(value, str) else value
    if not isinstance(word, str) or _WORD.fullmatch(word) is None:
        fix = (
            "the command's argument is a param that the processor's params_schema does not describe, so it may only be "
            f"a number, a boolean or a word of at most {WORD_CHARACTERS_MAX} letters, digits and . _ : , + @ % - that "
            "begins with a letter, a digit, '_' or '.'; for other values, have the processor describe it under "
            "`properties` of its params_schema"
        )
        raise BadArgument(name, value, fix)


def _check_beginning(argument: str, params: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Look at the params at the argument's beginning, up to the first that is not empty."""
    at = 0
    while (match := PLACEHOLDER.match(argument, at)) and match[2] == "params" and match[3] in params:
        name, text = match[3], param_text(params[match[3]])
        at = match.end()
        if text.startswith("-") and name not in allowed:
            fix = (
                "this begins an argument of the processor's command, so it may not begin with '-', as options do; "
                "if it is meant to, have the processor name the param in allow_options"
            )
            raise BadArgument(name, params[name], fix)
        if text:
            return
