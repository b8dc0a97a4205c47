"""Copies of this process, made by `os.fork` in user code: they never do the child's part of the work.

A copy that leaves the user's function ends there, as a program of its own would. It can't answer for the task, touch
the task's files or take the next job. If the function returns in a copy, the attempt fails: both copies would go on.
"""

import contextlib
import mmap
import os
import socket
import struct
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

from services.contract.task_error import TaskError
from services.worker.child import linux

_HERE = str(Path(__file__).parent)
_PID = struct.Struct("=q")

_own_pid = os.getpid()
_returned = mmap.mmap(-1, _PID.size)  # shared with all copies: the last one in which the function returned
_called_once = False  # the call of user code that runs is a `single_call`


def keep_from_copies(channel: socket.socket, *pipes: int) -> None:
    """Have copies lose their descriptors of these at once, and end when user code gives them back to us."""
    global _own_pid, _returned  # of the process that serves jobs: it may be a copy of the one that has loaded this
    _own_pid, _returned = os.getpid(), mmap.mmap(-1, _PID.size)

    def part() -> None:
        for descriptor in (channel.detach(), *pipes):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        if not _called_once and (caller := _caller_of_user_code()):
            sys.setprofile(_end_at_return_to(caller))

    os.register_at_fork(after_in_child=part)


def is_copy() -> bool:
    return os.getpid() != _own_pid


def end_copies() -> None:
    """End this process if it is one: it was made without os.fork, such as by a library in C."""
    if is_copy():
        os._exit(1)


@contextlib.contextmanager
def single_call() -> Iterator[None]:
    """Around one call of user code: no copy leaves it. Where a task makes many calls, the copies watch themselves."""
    global _called_once  # there is one call at a time in a process
    _called_once = True
    try:
        yield
    except BaseException as error:
        if is_copy():
            _end_raised(error)
        raise
    finally:
        _called_once = False
    if is_copy():
        _end_returned()


def check_returned() -> None:
    """Raises TaskError if the function has returned in a copy since the last check."""
    (pid,) = _PID.unpack(_returned[:])
    _returned[:] = _PID.pack(0)
    if pid:
        message = (
            f"the function returned in a child process that it had forked (process {pid}): "
            "end such a process with os._exit()"
        )
        raise TaskError("exception", message, retryable=False)


def print_traceback(error: BaseException) -> None:
    """Print the user's part of the traceback to the log, if the disk has room for it."""
    with contextlib.suppress(OSError):
        traceback.print_exception(error.with_traceback(_of_user(error.__traceback__)))


def exit_code(error: SystemExit) -> int:
    """The code with which the interpreter would exit."""
    return error.code if isinstance(error.code, int) else 0 if error.code is None else 1


def _of_user(frame: TracebackType | None) -> TracebackType | None:
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_HERE):
        frame = frame.tb_next
    return frame


def _caller_of_user_code() -> FrameType | None:
    """Our innermost frame; None if the copy never returns to it, as those that multiprocessing makes."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.startswith(_HERE):
        if frame.f_globals.get("__name__") == "multiprocessing.popen_fork":
            return None
        frame = frame.f_back
    return frame


def _end_at_return_to(caller: FrameType) -> Any:
    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "return" and frame.f_back is caller:
            _end_returned()

    return watch


def _end_returned() -> NoReturn:
    _returned[:] = _PID.pack(os.getpid())
    _end(1)


def _end_raised(error: BaseException) -> NoReturn:
    if not isinstance(error, SystemExit):
        print_traceback(error)
        _end(1)
    if isinstance(error.code, str):
        print(error.code, file=sys.stderr)
    _end(exit_code(error))


def _end(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    linux.flush_stdio()
    os._exit(code & 0xFF)
