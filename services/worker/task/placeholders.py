"""The placeholders in a command's arguments."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from services.contract.params import PLACEHOLDER
from services.contract.task_error import TaskError
from services.engine.arguments import BadArgument, check_arguments, names_its_program, param_text
from services.engine.spec import ProcessorSpec
from services.worker.task.paths import Paths

_FIX = {
    "params": "the stage's params have no {!r}: add it to them",
    "inputs": "the processor declares no input {!r}: add it to its inputs",
    "outputs": "the processor declares no output {!r}: add it to its outputs",
}


def command_arguments(spec: ProcessorSpec, *, paths: Paths, index: int, params: Mapping[str, Any]) -> list[str]:
    """The processor's command with its placeholders replaced.

    Raises TaskError (processor_load) for a missing value, and for params that may not be arguments: the job was
    submitted by a release that did not check them.
    """
    assert spec.command is not None
    _check(spec, params)
    return fill_placeholders(spec.command, paths=paths, index=index, params=params)


def image_arguments(
    spec: ProcessorSpec, *, paths: Paths, index: int, params: Mapping[str, Any]
) -> tuple[list[str] | None, list[str] | None]:
    """The processor's entrypoint and command, likewise; None where the image's own counts. Raises TaskError, likewise.

    An entrypoint takes the place of the image's command, too (as in Docker): then an absent command is empty.
    """
    _check(spec, params)
    entrypoint, command = (
        None if each is None else fill_placeholders(each, paths=paths, index=index, params=params)
        for each in (spec.entrypoint, spec.command)
    )
    return entrypoint, [] if command is None and entrypoint is not None else command


def _check(spec: ProcessorSpec, params: Mapping[str, Any]) -> None:
    if names_its_program(spec):
        raise TaskError("processor_load", "a param can't be the program itself", retryable=False)
    try:
        check_arguments(spec, params)
    except BadArgument as error:
        message = f"the stage's param {error.name} is {error.value!r:.500}: {error}"
        raise TaskError("processor_load", message, retryable=False) from None


def fill_placeholders(command: Sequence[str], *, paths: Paths, index: int, params: Mapping[str, Any]) -> list[str]:
    """The command with its placeholders replaced; other braces stay as they are.

    They are `{input}`, `{output}`, `{index}`, `{package}`, `{params.NAME}`, `{inputs.NAME}` and `{outputs.NAME}`. A
    param that is not a string is written as JSON. Raises TaskError (processor_load) for a missing value.
    """
    single = {"input": paths.input, "output": paths.output, "index": index, "package": paths.package}
    named: dict[str, Mapping[str, Any]] = {"params": params, "inputs": paths.inputs, "outputs": paths.outputs}

    def value_of(match: re.Match[str]) -> str:
        kind, name = match[2], match[3]
        if kind is None:
            if (value := single[match[1]]) is None:
                raise _missing(match[0], "the processor has no package")
            return str(value)
        if name not in named[kind]:
            raise _missing(match[0], _FIX[kind].format(name))
        value = named[kind][name]
        return param_text(value) if kind == "params" else str(value)

    return [PLACEHOLDER.sub(value_of, argument) for argument in command]


def _missing(placeholder: str, fix: str) -> TaskError:
    return TaskError("processor_load", f"the command has {placeholder}, but {fix}", retryable=False)
