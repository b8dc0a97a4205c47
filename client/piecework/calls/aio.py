"""The executor for asyncio programs: the same calls, awaited."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from piecework.calls.executor import Executor

if TYPE_CHECKING:
    from piecework.client import Client


class AsyncExecutor:
    """Runs calls on the grid of a `client`, with the options of `Executor`; use it by `async with`.

    What has not ended when a block is left by an error, or by a cancelled task, is cancelled on the grid, too.
    """

    def __init__(self, client: "Client", **options: Any) -> None:
        self._executor = Executor(client, **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._executor.__exit__, kind, error, trace)

    async def submit(self, function: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> "asyncio.Future[Any]":
        """Begin a call; await the future for its result."""
        return asyncio.wrap_future(await asyncio.to_thread(self._executor.submit, function, *args, **kwargs))

    async def map(
        self,
        function: Callable[..., Any] | str,
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        ahead: int | None = None,
        **params: Any,
    ) -> AsyncIterator[Any]:
        """The results of the items in their order; `ahead` calls are on their way at the same time."""
        async with _Calls(self._executor, function, items, ahead, params) as calls:
            waiting: deque[asyncio.Future[Any]] = deque()
            async for future, _ in calls.begin():
                waiting.append(future)
                if len(waiting) >= calls.most:
                    yield await waiting.popleft()
            while waiting:
                yield await waiting.popleft()

    async def map_unordered(
        self,
        function: Callable[..., Any] | str,
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        ahead: int | None = None,
        **params: Any,
    ) -> AsyncIterator[tuple[Any, "asyncio.Future[Any]"]]:
        """Each item with its future, which is done, in the order in which the calls end."""
        async with _Calls(self._executor, function, items, ahead, params) as calls:
            done: asyncio.Queue[tuple[Any, asyncio.Future[Any]]] = asyncio.Queue()
            under_way = 0

            def end(item: Any, future: "asyncio.Future[Any]") -> None:
                done.put_nowait((item, future))

            async for future, item in calls.begin():
                future.add_done_callback(partial(end, item))
                under_way += 1
                while under_way >= calls.most or not done.empty():
                    yield await done.get()
                    under_way -= 1
            for _ in range(under_way):
                yield await done.get()


class _Calls:
    """The job of one map, which is cancelled unless all its results were taken."""

    def __init__(
        self,
        executor: Executor,
        function: Callable[..., Any] | str,
        items: Iterable[Any] | AsyncIterable[Any],
        ahead: int | None,
        params: dict[str, Any],
    ) -> None:
        self.most = ahead or executor.ahead
        self._executor, self._function, self._items, self._params = executor, function, items, params

    async def __aenter__(self) -> Self:
        self._calls = await asyncio.to_thread(self._executor.begin, self._function, self._params)
        return self

    async def begin(self) -> AsyncIterator[tuple["asyncio.Future[Any]", Any]]:
        async for item in _each(self._items):
            yield asyncio.wrap_future(self._calls.put([item])), item
        self._calls.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            await asyncio.to_thread(self._calls.cancel)


async def _each(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    for item in items:
        yield item
