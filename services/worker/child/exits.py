"""What a function registers with `atexit` is called when its task ends: the process may go on, or be killed."""

import atexit
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

_register, _unregister = atexit.register, atexit.unregister
_OF_PROCESS = {"importlib._bootstrap", "weakref"}  # an import, or Python's own finalizers: for all tasks


class Exits:
    """The calls that the task's function has asked for; `called` says whether there were any."""

    def __init__(self) -> None:
        self.called = False
        self._calls: list[_Call] = []

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Until the context ends, keep what is registered; then call it, the last one first, as Python would."""
        atexit.register, atexit.unregister = self._register, self._unregister
        try:
            yield
        finally:
            while self._calls:
                self._call(*self._calls.pop())
            atexit.register, atexit.unregister = _register, _unregister

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.called = True
        try:
            function(*arguments, **named)
        except Exception:
            traceback.print_exc()

    def _register(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Callable[..., Any]:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_globals.get("__name__") in _OF_PROCESS:
                return _register(function, *arguments, **named)
            frame = frame.f_back
        self._calls.append((function, arguments, named))
        return function

    def _unregister(self, function: Callable[..., Any], /) -> None:
        self._calls = [call for call in self._calls if call[0] != function]
        _unregister(function)
