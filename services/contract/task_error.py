"""The one error that says why an attempt failed."""

from collections.abc import Sequence
from typing import Any

from services.contract.location import Location


class TaskError(Exception):
    """An attempt failed for a known reason: `type` is one of the task error types, `message` is for its user.

    `gone` names the objects that are missing, or no longer what was written to them. If it is `excused`, neither the
    task nor its input is at fault: the attempt does not count as a failure but is released, and the task put off.
    `raised` tells a program of the exception that a function of items has raised: its `class` (module:name), its
    `traceback`, and its `args` if they are JSON values.
    """

    def __init__(
        self,
        type: str,
        message: str,
        *,
        retryable: bool = True,
        exit_code: int | None = None,
        gone: Sequence[Location] = (),
        excused: bool = False,
        raised: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.type = type
        self.message = message
        self.retryable = retryable
        self.exit_code = exit_code
        self.gone = tuple(gone)
        self.excused = excused
        self.raised = raised

    def as_reply(self) -> dict[str, Any]:
        return {
            "error": {"type": self.type, "message": self.message},
            "retryable": self.retryable,
            "exit_code": self.exit_code,
        }


def describe(error: BaseException) -> str:
    """`ValueError: bad carrier 'X9'`; of a long text, the first and the last 1,000 characters."""
    try:
        text = str(error)
    except Exception as broken:
        text = f"(its __str__ raises {type(broken).__name__})"
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= 2000 else f"{text[:1000]} … {text[-1000:]}"


class Malformed(ValueError):
    """A record can't be read or written; the message is the reason for its rejection."""
