"""What stands for what in a command's arguments."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from services.worker.child.errors import TaskError

_PLACEHOLDER = re.compile(r"\{(input|output|index|params\.([^{}]+))\}")


def fill_placeholders(
    command: Sequence[str], *, input: Path, output: Path, index: int, params: Mapping[str, Any]
) -> list[str]:
    """The command with `{input}`, `{output}`, `{index}` and `{params.NAME}` replaced; other braces stay as they are.

    A param that is no string is written as JSON. Raises TaskError (processor_load) for a param that is not given.
    """
    values = {"input": str(input), "output": str(output), "index": str(index)}

    def value_of(match: re.Match[str]) -> str:
        param = match[2]
        if param is None:
            return values[match[1]]
        if param not in params:
            message = f"the command has {match[0]}, but the stage's params have no {param!r}: add it to them"
            raise TaskError("processor_load", message, retryable=False)
        value = params[param]
        return value if isinstance(value, str) else orjson.dumps(value).decode()

    return [_PLACEHOLDER.sub(value_of, argument) for argument in command]
