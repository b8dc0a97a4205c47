"""The environment of the task that runs in this process."""

import os
import time
from collections.abc import Mapping
from typing import Any


def set_environment(wanted: Mapping[str, str]) -> None:
    """Have these variables alone. Change only those that differ: most are the same as for the task before."""
    zone = os.environ.get("TZ")
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in wanted.items() if os.environ.get(name) != value})
    if os.environ.get("TZ") != zone:
        time.tzset()


class SessionEnvironment:
    """That of a session's tasks: a few variables differ from task to task.

    They are put right into what `os.environ` keeps, encoded: through its own methods they would take as long as all
    else that is done for a task. Where these are not as CPython has them, or user code has changed anything, all
    variables are set again.
    """

    def __init__(self) -> None:
        self._left: dict[bytes, bytes] | None = None  # as the last task was given them
        self._names: set[str] = set()

    def set(self, base: Mapping[str, str], variables: Mapping[str, object]) -> None:
        kept: Any = getattr(os.environ, "_data", None)
        if self._left is None or kept != self._left or variables.keys() != self._names:
            set_environment({**base, **{name: str(value) for name, value in variables.items()}})
        else:
            for name, value in variables.items():
                key, encoded = name.encode(), str(value).encode()
                if kept[key] != encoded:
                    os.putenv(key, encoded)
                    kept[key] = encoded
        kept = getattr(os.environ, "_data", None)
        self._left, self._names = kept and dict(kept), set(variables)
