"""What lets the program that called a function raise the function's exception again."""

import contextlib
import json
import traceback
from typing import Any

TRACEBACK_CHARACTERS_MAX = 8_192  # of its end, where it was raised
ARGS_BYTES_MAX = 2_048
CLASS_CHARACTERS_MAX = 1_000


def describe_raised(error: BaseException) -> dict[str, Any]:
    """The exception's `class` (module:name), its `traceback` and, if they are JSON values, its `args`."""
    raised: dict[str, Any] = {"class": f"{type(error).__module__}:{type(error).__qualname__}"[:CLASS_CHARACTERS_MAX]}
    raised["traceback"] = "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS_MAX:]
    with contextlib.suppress(TypeError, ValueError, RecursionError):
        args = json.dumps(error.args, allow_nan=False, ensure_ascii=False).encode()
        if len(args) <= ARGS_BYTES_MAX and b"\\u0000" not in args:
            raised["args"] = json.loads(args)
    return raised
