"""Users' Python functions: found by name, called with file paths."""

import importlib
import json
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from services.worker.child.errors import TaskError, describe
from services.worker.child.formats import Malformed, encode_json

VALUE_BYTES_MAX = 4096  # of a returned dict as JSON: it lives in the task's row


def load_function(reference: str) -> Callable[..., Any]:
    """The function of `module:function`; raises TaskError (processor_load), with the traceback in the log.

    A module is imported once a child process. The failure is retryable: another node may have the module.
    """
    module_name, _, name = reference.partition(":")
    importlib.invalidate_caches()  # files may have come since the last look
    try:
        function = getattr(importlib.import_module(module_name), name)
    except Exception as error:
        traceback.print_exc()
        raise TaskError("processor_load", f"can't load {reference}: {describe(error)}") from None
    if not callable(function):
        raise TaskError(
            "processor_load", f"can't load {reference}: it is of type {type(function).__name__}, no function"
        )
    found: Callable[..., Any] = function
    return found


def call_function(reference: str, input: Path, output: Path, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Call a callable processor; returns its value. Raises TaskError (output_invalid) for what can't be one."""
    function = load_function(reference)
    try:
        value = function(input, output, **params)
    except SystemExit as error:
        if error.code:
            raise
        return None  # a program's main() may end in sys.exit(0)
    if value is None:
        return None
    if not isinstance(value, dict):
        message = f"{reference} returned a value of type {type(value).__name__}; it must return a dict or None"
        raise TaskError("output_invalid", message, retryable=False)
    try:
        encoded = encode_json(value)
    except Malformed as error:
        raise TaskError("output_invalid", f"{reference} returned what {error}", retryable=False) from None
    if b"\\u0000" in encoded:
        raise TaskError("output_invalid", f"{reference} returned text with a NUL character", retryable=False)
    if len(encoded) > VALUE_BYTES_MAX:
        message = f"{reference} returned {len(encoded)} bytes of JSON, at most {VALUE_BYTES_MAX} fit: write to `output`"
        raise TaskError("output_invalid", message, retryable=False)
    plain: dict[str, Any] = json.loads(encoded)
    return plain
