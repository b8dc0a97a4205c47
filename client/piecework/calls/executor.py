"""An executor of `concurrent.futures` whose calls run on a grid, each as a task: durable, isolated, recorded."""

import concurrent.futures
import itertools
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from piecework.calls.code import Code, code_of
from piecework.calls.job import MapJob
from piecework.calls.open_job import IDLE_SECONDS, OpenJob, append_all
from piecework.calls.pickled import Pickles, unpickled
from piecework.errors import InputError

if TYPE_CHECKING:
    from piecework.client import Client

AHEAD = 10_000  # calls of a map that are on their way at the same time
FAILURES_MAX = 10_000_000  # one call that fails does not end the others

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")


class Executor(concurrent.futures.Executor):
    """Runs calls on the grid of a `client`. Leave its `with` block to close its jobs and wait for them.

    A function goes with the code of its module, or of the directory `package`, and is run by workers of `pool`; items,
    arguments and results are JSON values (see docs/map.md for pickles). A function that is decorated with
    `piecework.function` brings options of its own, which come before these. The name of a registered processor of the
    kind `function` may stand for a function, and then needs no right but that to submit.
    """

    def __init__(
        self,
        client: "Client",
        *,
        name: str | None = None,
        package: Path | str | None = None,
        requirements: Iterable[str] | Literal["environment"] | None = None,
        pool: str = "default",
        retries: int = 2,
        timeout: float | str = 3600.0,
        memory: int | str | None = None,
        cpus: float | None = None,
        gpus: int | None = None,
        ship: Literal["module", "pickle"] = "module",
        ahead: int = AHEAD,
        priority: int | None = None,
        share: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._client = client
        self._options: dict[str, Any] = {
            "name": name,
            "package": package,
            "requirements": requirements,
            "pool": pool,
            "retries": retries,
            "timeout": timeout,
            "memory": memory,
            "cpus": cpus,
            "gpus": gpus,
            "priority": priority,
            "share": share,
            "labels": dict(labels) if labels else None,
        }
        self.ahead = ahead
        self._pickles = Pickles() if ship == "pickle" else None
        self._lock = threading.Lock()
        self._processors: dict[Any, str] = {}
        self._submitted: dict[Any, Calls] = {}
        self._jobs: list[OpenJob] = []
        self._shut_down = False

    def submit(self, function: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Call the function on the grid. Its future can be cancelled until the call has been sent."""
        spread = len(args) != 1 or bool(kwargs)
        key = None if self._pickles and callable(function) else (function, spread)
        with self._lock:
            if key not in self._submitted:
                self._submitted[key] = self._open(function, {}, spread)
            calls = self._submitted[key]
        return calls.put(args, kwargs, function)

    def map(
        self,
        fn: Callable[..., Any] | str,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        ahead: int | None = None,
        **params: Any,
    ) -> Iterator[Any]:
        """The results of the items in their order, as the standard library's executors give them.

        Items are taken from the iterable as results are: `ahead` of them are on their way. `params` are given to each
        call by name. Whoever stops iterating cancels what has not ended. `chunksize` changes nothing.
        """
        until = None if timeout is None else time.monotonic() + timeout
        calls = self.begin(fn, params, spread=len(iterables) > 1)
        waiting = _Ahead(calls, zip(*iterables, strict=False), ahead or self.ahead)
        return _in_order(calls, waiting, until)

    def map_unordered(
        self, function: Callable[..., Any] | str, items: Iterable[Any], *, ahead: int | None = None, **params: Any
    ) -> Iterator[tuple[Any, "Future[Any]"]]:
        """Each item with its future, which is done, in the order in which the calls end."""
        return _as_they_end(self.begin(function, params), iter(items), ahead or self.ahead)

    def start_map(self, function: Callable[..., Any] | str, items: Iterable[Any], **params: Any) -> MapJob:
        """A job of all these calls, which goes on without this program; `piecework.attach` finds its results."""
        if self._pickles is not None:
            raise InputError("start_map: results of pickled calls can be read by this program alone; use a module")
        job_id = self._client.submit_job(self._spec(function, params, spread=False))["job_id"]
        append_all(self._client, job_id, items)
        return MapJob(self._client, job_id)

    def attach(self, job_id: str) -> MapJob:
        """The results of a job that was started before."""
        return MapJob(self._client, job_id)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Close all jobs, which end with what was called; with `wait`, wait for that.

        With `cancel_futures`, what has not ended is cancelled. When this returns, the jobs need this program no more.
        """
        with self._lock:
            self._shut_down = True
            jobs = list(self._jobs)
        for job in jobs:
            job.cancel() if cancel_futures else job.close()
        for job in jobs:
            job.join() if wait else job.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self.shutdown(cancel_futures=error is not None)
        return None

    def __enter__(self) -> Self:
        return self

    def begin(self, function: Callable[..., Any] | str, params: dict[str, Any], *, spread: bool = False) -> "Calls":
        """Calls of this function in a job of their own."""
        with self._lock:
            return self._open(function, params, spread)

    def _open(self, function: Callable[..., Any] | str, params: dict[str, Any], spread: bool) -> "Calls":
        """The same under the lock."""
        if self._shut_down:
            raise RuntimeError("can't call anything more: the executor was shut down")
        pickles = self._pickles if callable(function) else None
        spec = self._spec(function, {} if pickles else params, spread=spread)
        job = OpenJob(self._client, spec, unpickled) if pickles else OpenJob(self._client, spec)
        self._jobs.append(job)
        return Calls(job, function, params, spread, pickles)

    def _spec(self, function: Callable[..., Any] | str, params: dict[str, Any], *, spread: bool) -> dict[str, Any]:
        options = self._options | dict(getattr(function, "options", {}))
        stage: dict[str, Any] = {
            "processor": self._processor(function, options, spread),
            "params": params,
            "pool": options["pool"],
            "retry": {"max_attempts": options["retries"] + 1},
            "timeout_seconds": options["timeout"],
            "tolerated_failures": FAILURES_MAX,
        }
        stage |= {name: options[name] for name in ("memory", "cpus", "gpus") if options[name] is not None}
        spec: dict[str, Any] = {
            "name": options["name"] or _NO_NAME.sub("-", stage["processor"].partition("@")[0])[:100],
            "input": {"type": "stream", "idle_seconds": IDLE_SECONDS},
            "stages": [stage],
        }
        return spec | {name: options[name] for name in ("priority", "share", "labels") if options[name] is not None}

    def _processor(self, function: Callable[..., Any] | str, options: Mapping[str, Any], spread: bool) -> str:
        """The processor that runs the function, with its version: registered if it is not yet."""
        if isinstance(function, str):
            if spread:
                raise InputError(f"{function}: a processor takes one item, so give one argument, or a function")
            return function
        key = self._pickles or (function, spread)
        if key not in self._processors:
            self._processors[key] = self._register(self._code(function, options, spread))
        return self._processors[key]

    def _code(self, function: Callable[..., Any], options: Mapping[str, Any], spread: bool) -> Code:
        shipped = options["package"], options["requirements"]
        if self._pickles is not None:
            return self._pickles.code(*shipped)
        code = code_of(getattr(function, "local", function), *shipped)
        return code.spread() if spread else code

    def _register(self, code: Code) -> str:
        """The reference of the processor that runs this code; a new version only if none has it."""
        package = self._client.push_package(code.files)
        name = _NO_NAME.sub("-", code.reference.replace(":", "."))[:100]
        registered = self._client.register_processor(name, {"function": code.reference, "package": package["sha256"]})
        return f"{name}@{registered['version']}"


class Calls:
    """An open job, and how its calls are written as items: the argument itself, all arguments, or a pickle."""

    def __init__(
        self,
        job: OpenJob,
        function: Callable[..., Any] | str,
        params: Mapping[str, Any],
        spread: bool,
        pickles: Pickles | None,
    ) -> None:
        self._job, self._function, self._params = job, function, params
        self._spread, self._pickles = spread, pickles
        self.close, self.cancel = job.close, job.cancel

    def put(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] = _NOTHING,
        function: Callable[..., Any] | str | None = None,
    ) -> "Future[Any]":
        """Call the function, or this other one if calls are pickled. Raises InputError, RuntimeError."""
        if self._pickles is not None:
            called: Any = function or self._function
            return self._job.put(self._pickles.item(getattr(called, "local", called), args, {**self._params, **kwargs}))
        return self._job.put({"args": list(args), "kwargs": dict(kwargs)} if self._spread else args[0])


class _Ahead:
    """The futures of the calls that are on their way, the oldest first; the job is closed after the last item."""

    def __init__(self, calls: Calls, arguments: Iterator[Sequence[Any]], most: int) -> None:
        self._calls, self._arguments = calls, arguments
        self.futures: deque[Future[Any]] = deque()
        self.fill(most)

    def fill(self, most: int) -> None:
        """Call for up to this number of further items."""
        taken = 0
        for arguments in itertools.islice(self._arguments, most):
            self.futures.append(self._calls.put(arguments))
            taken += 1
        if taken < most:
            self._calls.close()


def _in_order(calls: Calls, ahead: _Ahead, until: float | None) -> Iterator[Any]:
    try:
        while ahead.futures:
            left = None if until is None else until - time.monotonic()
            result = ahead.futures[0].result(left)
            ahead.futures.popleft()
            ahead.fill(1)
            yield result
    finally:
        if ahead.futures:
            calls.cancel()


def _as_they_end(calls: Calls, items: Iterator[Any], most: int) -> Iterator[tuple[Any, "Future[Any]"]]:
    done: SimpleQueue[tuple[Any, Future[Any]]] = SimpleQueue()
    under_way = 0

    def end(item: Any, future: "Future[Any]") -> None:
        done.put((item, future))

    def fill(most: int) -> int:
        taken = list(itertools.islice(items, most))
        for item in taken:
            calls.put([item]).add_done_callback(partial(end, item))
        if len(taken) < most:
            calls.close()
        return len(taken)

    try:
        under_way = fill(most)
        while under_way:
            ended = done.get()
            under_way += fill(1) - 1
            yield ended
    finally:
        if under_way:
            calls.cancel()
