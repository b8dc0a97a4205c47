"""The one gate through which a process touches the world outside: each side effect passes here, before and after.

A watcher sees them all, and can count them or die between any two. Without a watcher, a passage costs one comparison.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import Literal

Kind = Literal["sql", "s3", "sqs", "autoscaling", "secretsmanager", "ssm", "http", "process"]
Moment = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Effect:
    """A statement that stands alone or a COMMIT, by the function it comes from; one try of a request; a start.

    `name` is stable: the AWS operation, the function whose statement or transaction it is, what is sent or started.
    """

    kind: Kind
    name: str


UNSEEN = nullcontext()  # the passage if there is no watcher
Watcher = Callable[[Moment, Effect], None]

_watcher: Watcher | None = None
# The frames between a statement and the function it comes from are these modules' and asyncpg's.
_GATE = ("services.platform.effects", "services.platform.database")


def watch(watcher: Watcher | None) -> None:
    """Make this the process's only watcher. It is told "after" even if the effect failed, unless it was cancelled."""
    global _watcher
    _watcher = watcher


def watched() -> bool:
    """Whether there is a watcher; without one, a caller need not work out what to report."""
    return _watcher is not None


def tell(moment: Moment, kind: Kind, name: str) -> None:
    """One half of a passage, for places where a `with` can't hold both."""
    if _watcher is not None:
        _watcher(moment, Effect(kind, name))


def passing(kind: Kind, name: str | None = None) -> AbstractContextManager[None]:
    """The passage of an effect, which happens within the context. Its name is, unless given, the calling function's."""
    return UNSEEN if _watcher is None else _passage(_watcher, Effect(kind, name or _calling_function()))


@contextmanager
def _passage(watcher: Watcher, effect: Effect) -> Iterator[None]:
    watcher("before", effect)
    try:
        yield
    except Exception:
        watcher("after", effect)
        raise
    watcher("after", effect)


def _calling_function() -> str:
    """`module.function` of the nearest caller among the services that is not the gate itself."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("services.") and module not in _GATE:
            return f"{module.removeprefix('services.')}.{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "elsewhere"
