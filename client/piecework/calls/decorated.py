"""`piecework.function`: a function that says itself how the grid runs it."""

import atexit
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from piecework.calls.executor import Executor
    from piecework.calls.job import MapJob

_OPTIONS = (
    *("name", "package", "requirements", "pool", "retries", "timeout", "memory", "cpus", "gpus"),
    *("priority", "share", "labels"),
)


class Function:
    """A function with the `options` that an executor takes for its calls; called as it is, it runs here."""

    def __init__(self, local: Callable[..., Any], options: dict[str, Any]) -> None:
        if unknown := sorted(options.keys() - set(_OPTIONS)):
            raise TypeError(f"piecework.function has no option {unknown[0]!r}; it has {', '.join(_OPTIONS)}")
        functools.update_wrapper(self, local)
        self.local = local
        self.options = options

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.local(*args, **kwargs)

    def map(self, items: Iterable[Any], **params: Any) -> Iterator[Any]:
        """The results of the items in their order, from the grid of this environment."""
        return _executor().map(self, items, **params)

    def spawn(self, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Call it on the grid of this environment."""
        return _executor().submit(self, *args, **kwargs)

    def start_map(self, items: Iterable[Any], **params: Any) -> "MapJob":
        """A job of all these calls, which goes on without this program."""
        return _executor().start_map(self, items, **params)


@overload
def function(wrapped: Callable[..., Any], /) -> Function: ...
@overload
def function(**options: Any) -> Callable[[Callable[..., Any]], Function]: ...
def function(wrapped: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Decorate a function with options of `Client.executor`, such as `memory="2GB"`; it may stand without any."""
    if wrapped is not None:
        return Function(wrapped, options)
    return lambda wrapped: Function(wrapped, options)


_lock = threading.Lock()
_of_environment: "list[Executor]" = []


def _executor() -> "Executor":
    """That of the client of this environment: its jobs are closed when the program ends, and go on."""
    from piecework.client import Client

    with _lock:
        if not _of_environment:
            _of_environment.append(Client().executor())
            atexit.register(_of_environment[0].shutdown, wait=False)
        return _of_environment[0]
