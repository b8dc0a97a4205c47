"""The one gate through which a process touches the world outside: each side effect passes here, before and after.

A watcher sees them all, and can count them or die between any two. Without a watcher, a passage costs one comparison.
Another one is told of requests made while the task has a transaction open: there should be none, since whoever needs
what the transaction has locked would wait for somebody else's service.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType
from typing import Literal

Kind = Literal[
    "sql", "s3", "sqs", "autoscaling", "secretsmanager", "ssm", "ecr", "sts", "sns", "http", "smtp", "process"
]
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
Refuser = Callable[[Effect, str], None]

_watcher: Watcher | None = None
_refuser: Refuser | None = None


@dataclass(slots=True)
class Transaction:
    """One that a task has begun; what the task starts meanwhile is within it, too."""

    begun_by: str  # as an effect's name
    is_open: bool = True


_transaction: ContextVar[Transaction | None] = ContextVar("transaction", default=None)
# The frames between a statement and the function it comes from are these modules' and asyncpg's.
_GATE = ("services.platform.effects", "services.platform.database")


def watch(watcher: Watcher | None) -> None:
    """Make this the process's only watcher. It is told "after" even if the effect failed, unless it was cancelled."""
    global _watcher
    _watcher = watcher


def watch_transactions(refuser: Refuser | None) -> None:
    """Have this told of each request to another service that is made within a transaction, and of who has begun that.

    It may raise.
    """
    global _refuser
    _refuser = refuser


def begin() -> Transaction:
    """The current task has begun a transaction; its end is for the caller to note."""
    transaction = Transaction("" if _refuser is None else _calling_function())
    _transaction.set(transaction)
    return transaction


def _refuse_in_transaction(effect: Effect) -> None:
    transaction = _transaction.get()
    if _refuser is not None and transaction is not None and transaction.is_open:
        _refuser(effect, transaction.begun_by)


def watched() -> bool:
    """Whether there is a watcher; without one, a caller need not work out what to report."""
    return _watcher is not None


def tell(moment: Moment, kind: Kind, name: str) -> None:
    """One half of a passage, for places where a `with` can't hold both: that of a request."""
    if _refuser is not None and moment == "before":
        _refuse_in_transaction(Effect(kind, name))
    if _watcher is not None:
        _watcher(moment, Effect(kind, name))


def passing(kind: Kind, name: str | None = None) -> AbstractContextManager[None]:
    """The passage of an effect, which happens within the context. Its name is, unless given, the calling function's."""
    if _refuser is not None and kind in ("http", "smtp"):
        _refuse_in_transaction(Effect(kind, name or _calling_function()))
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
