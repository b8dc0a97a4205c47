"""Users' Python functions: found by name, called with file paths."""

import importlib
import json
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from services.contract.task_error import Malformed, TaskError, describe
from services.inputs.json_text import encode_json
from services.worker.child import forks
from services.worker.child.counts import check_counts
from services.worker.child.items import write_items_of_list
from services.worker.child.job import VALUE_BYTES_MAX

_loaded: dict[str, Callable[..., Any]] = {}


def load_function(reference: str) -> Callable[..., Any]:
    """The function of `module:function`, found once a process.

    Raises TaskError (processor_load), with the traceback in the log; retryable, as another node may have the module.
    """
    if found := _loaded.get(reference):
        return found
    module_name, _, name = reference.partition(":")
    importlib.invalidate_caches()  # new files may exist since the last import
    try:
        function = getattr(importlib.import_module(module_name), name)
    except Exception as error:
        traceback.print_exc()
        is_of_package = isinstance(error, ImportError) and "relative import" in str(error)
        fix = f"; name its package, too, such as sales.{reference}" if is_of_package else ""
        raise TaskError("processor_load", f"can't load {reference}: {describe(error)}{fix}") from None
    if not callable(function):
        raise TaskError(
            "processor_load", f"can't load {reference}: it is of type {type(function).__name__}, not a function"
        )
    _loaded[reference] = function
    return _loaded[reference]


def is_loaded(reference: str) -> bool:
    return reference in _loaded


def call_function(
    reference: str, input: Path, output: Path, arguments: Mapping[str, Any], listing: Path | None
) -> dict[str, Any]:
    """Call a callable processor; returns the `value`, records and items of the child's answer.

    In a fan-out stage it may return a list of items, which go to `listing`. Raises TaskError (output_invalid).
    """
    value = _call(reference, input, output, **arguments)
    if value is None:
        return {}
    if isinstance(value, list) and listing is not None:
        return {"items": write_items_of_list(value, listing)}
    if not isinstance(value, dict):
        allowed = "a dict or None" if listing is None else "a list of items, a dict or None"
        message = f"{reference} returned a value of type {type(value).__name__}; it must return {allowed}"
        raise TaskError("output_invalid", message, retryable=False)
    counts = check_counts(value.pop("records"), reference) if isinstance(value.get("records"), dict) else {}
    return counts | ({"value": _small(value, reference)} if value or not counts else {})


def call_with_item(
    reference: str, item: Any, arguments: Mapping[str, Any], locate: Callable[[], Path], listing: Path | None
) -> dict[str, Any]:
    """Call a function processor; returns the `value` of the child's answer. A large one goes to the file that `locate`
    names. In a fan-out stage the function returns a list of items, which go to `listing`.

    Raises TaskError (output_invalid).
    """
    value = _call(reference, item, **arguments)
    if listing is not None:
        if value is not None and not isinstance(value, list):
            message = f"{reference} returned a value of type {type(value).__name__}; it must return a list of items"
            raise TaskError("output_invalid", message, retryable=False)
        return {"items": write_items_of_list(value or [], listing)}
    encoded = _encode(value, reference)
    if len(encoded) <= VALUE_BYTES_MAX:
        return {"value": json.loads(encoded)}
    output = locate()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(encoded)
    return {}


def _call(reference: str, /, *given: Any, **arguments: Any) -> Any:
    """What the function returns; None if it ends in sys.exit(0), as a program's main() may."""
    function = load_function(reference)
    try:
        with forks.single_call():
            return function(*given, **arguments)
    except SystemExit as error:
        if error.code:
            raise
        return None


def _encode(value: Any, reference: str) -> bytes:
    try:
        encoded = encode_json(value)
    except Malformed as error:
        raise TaskError("output_invalid", f"{reference} returned a value that {error}", retryable=False) from None
    if b"\\u0000" in encoded:
        raise TaskError("output_invalid", f"{reference} returned text with a NUL character", retryable=False)
    return encoded


def _small(value: dict[str, Any], reference: str) -> dict[str, Any]:
    """The dict as plain JSON values."""
    encoded = _encode(value, reference)
    if len(encoded) > VALUE_BYTES_MAX:
        message = f"{reference} returned {len(encoded)} bytes of JSON, at most {VALUE_BYTES_MAX} fit: write to `output`"
        raise TaskError("output_invalid", message, retryable=False)
    plain: dict[str, Any] = json.loads(encoded)
    return plain
