"""Runs user code within this process: what it has used, why it failed, and whether it has left anything behind."""

import errno
import sys
from collections.abc import Callable
from typing import Any

from services.contract.task_error import TaskError
from services.worker.child import forks, linux
from services.worker.child.last_words import describe_shown
from services.worker.child.process_state import ProcessState
from services.worker.child.raised import describe_raised


def run_user_code(
    work: Callable[[], None],
    reply: dict[str, Any],
    state: ProcessState,
    private: str | None,
    *,
    has_caller: bool = False,
) -> None:
    """Do the work, and put everything about it into the reply.

    `private` is the task's own directory if a function is called in this process, which is then put back to what it
    was: `clean` says whether it could be. If it `has_caller`, a program that raises again what the function has raised,
    the error says more of that. Raises nothing.
    """
    reply["clean"] = False
    linux.reset_memory_peak()
    cpu_seconds = linux.cpu_seconds()
    try:
        try:
            work()
        finally:
            reply["clean"] = private is None or state.restore()
            forks.check_returned()
    except TaskError as error:
        reply |= error.as_reply()
    except SystemExit as error:
        reply |= _exited(error)
    except BaseException as error:
        forks.print_traceback(error)
        reply |= _raised(error).as_reply()
        if has_caller:
            reply["error"]["raised"] = describe_raised(error)
    reply["memory_bytes"], peak = linux.memory()
    reply.setdefault("memory_bytes_peak", peak)
    reply["cpu_seconds"] = linux.cpu_seconds() - cpu_seconds
    if private is not None and state.has_leftovers(private):
        reply["clean"] = False
        if names := ", ".join(state.unfinished_threads()):
            print(f"piecework: the function has ended without waiting for its threads: {names}", file=sys.stderr)
    reply["clean"] = reply["clean"] and not linux.has_children()


def _raised(error: BaseException) -> TaskError:
    """What user code raised; it says by an attribute of the exception that no other try can succeed."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return TaskError("disk_full", describe_shown(error))
    if getattr(error, "input_invalid", False) is True:
        return TaskError("input_invalid", describe_shown(error), retryable=False)
    return TaskError("exception", describe_shown(error))


def _exited(error: SystemExit) -> dict[str, Any]:
    """User code called sys.exit in the middle of its work."""
    code = forks.exit_code(error)
    message = f"exit code {code}: {error.code:.2000}" if isinstance(error.code, str) else f"exit code {code}"
    return TaskError("exit_code", message, exit_code=code).as_reply()
