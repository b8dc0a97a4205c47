"""Errors of calls: the exception that the function raised, if its class is known here, with where it came from."""

import builtins
import sys
from typing import Any

from piecework.errors import PieceworkError
from piecework.shapes import Value


class CallFailed(PieceworkError):
    """A call failed otherwise than by an exception whose class is known here: `type` is the task's error type."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__(message)
        self.type = type


class RemoteTraceback(Exception):
    """The traceback of the worker, as text: the cause of the exception that a call raises."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


def error_of(value: Value, job_id: str, stage: int) -> BaseException:
    """The exception that a failed call raises.

    It has `job_id`, `index`, `attempts` and `log_url` (None if nothing was printed), a note that says how to see the
    log later, and the worker's traceback as its cause.
    """
    failure: dict[str, Any] = dict(
        value["error"] or {"type": value["state"], "message": f"the call was {value['state']}"}
    )
    error = _raised(failure) or CallFailed(failure["type"], failure["message"])
    if text := failure.get("raised", {}).get("traceback"):
        error.__cause__ = RemoteTraceback(text)
    known = {"job_id": job_id, "index": value["index"], "attempts": value["attempt"], "log_url": value.get("log_url")}
    for name, fact in known.items():
        setattr(error, name, fact)
    error.add_note(
        f"task {value['index']} of job {job_id}, attempt {value['attempt']}; "
        f"its log: piecework logs {job_id} {stage} {value['index']}"
    )
    return error


def _raised(failure: dict[str, Any]) -> Exception | None:
    """An exception of the class that was raised, if this program has it; only modules that are here are looked into."""
    raised: dict[str, Any] = failure.get("raised", {})
    module, _, name = raised.get("class", "").partition(":")
    found: Any = builtins if module == "builtins" else sys.modules.get("__main__" if _is_main(module) else module)
    for part in name.split(".") if name else [""]:
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        return None
    arguments = raised.get("args")
    if arguments is None:
        arguments = [failure["message"].partition(": ")[2] or failure["message"]]
    try:
        error = found.__new__(found, *arguments)  # not by its __init__, which may want anything
        error.args = tuple(arguments)
    except Exception:
        return None
    return error


def _is_main(module: str) -> bool:
    """Whether a worker knows this program's main module by that name."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    return (
        module not in sys.modules and file is not None and file.replace("\\", "/").rpartition("/")[2] == f"{module}.py"
    )
