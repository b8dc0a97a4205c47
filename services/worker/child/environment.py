"""The environment of the task that runs in this process."""

import ctypes
import os
import time
from collections.abc import Mapping
from typing import Any

from services.worker.child import linux

_PLACE_BYTES = 512  # for the name and the value of a variable that differs from task to task; more if it is longer


def set_environment(wanted: Mapping[str, str]) -> None:
    """Have these variables alone. Change only those that differ: most are the same as for the task before."""
    zone = os.environ.get("TZ")
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in wanted.items() if os.environ.get(name) != value})
    if os.environ.get("TZ") != zone:
        time.tzset()


_places: dict[bytes, Any] = {}  # by name; C's environment points into them
_outgrown: list[Any] = []  # so it may point into these


class SessionEnvironment:
    """That of a session's tasks: a few variables differ from task to task.

    They are put right into what `os.environ` keeps, encoded, and into C's environment, of which glibc would keep every
    value for good: through `os.environ` they would take as long as all else that is done for a task. Where these are
    not as CPython has them, or user code has changed anything, all variables are set again.
    """

    def __init__(self) -> None:
        self._left: dict[bytes, bytes] | None = None  # as the last task was given them
        self._names: set[str] = set()

    def set(self, base: Mapping[str, str], variables: Mapping[str, object]) -> None:
        kept: Any = getattr(os.environ, "_data", None)
        if self._left is None or kept != self._left or variables.keys() != self._names:
            set_environment({**base, **{name: str(value) for name, value in variables.items()}})
            kept = getattr(os.environ, "_data", None)
        for name, value in variables.items():
            key, encoded = os.fsencode(name), os.fsencode(str(value))
            if kept is not None:
                kept[key] = encoded
            _put(key, encoded)
        self._left, self._names = kept and dict(kept), set(variables)


def _put(name: bytes, value: bytes) -> None:
    """Each time: what has been set and put back by user code is the same in `os.environ`, and elsewhere in C's."""
    place, text = _places.get(name), b"%s=%s" % (name, value)
    if place is None or len(text) >= len(place):
        if place is not None:
            _outgrown.append(place)
        place = _places[name] = ctypes.create_string_buffer(max(_PLACE_BYTES, 2 * len(text)))
    place.value = text
    linux.put_environment(place)
