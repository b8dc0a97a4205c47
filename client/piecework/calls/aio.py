"""The executor for asyncio programs: the same calls, awaited."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
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
        """The results of the items in their order; `ahead` calls are on their way at the same time.

        A result does not wait for later items, however slowly these come.
        """
        async with _Calls(self._executor, function, items, ahead, params) as calls:
            async for _, future in calls.begun():
                yield await future

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
            async for ended in calls.ended():
                yield ended


_Pair = tuple[Any, "asyncio.Future[Any]"]  # an item and its call


class _Calls:
    """The job of one map, which is cancelled unless all its results were taken. A task takes the items meanwhile."""

    def __init__(
        self,
        executor: Executor,
        function: Callable[..., Any] | str,
        items: Iterable[Any] | AsyncIterable[Any],
        ahead: int | None,
        params: dict[str, Any],
    ) -> None:
        self._executor, self._function, self._items, self._params = executor, function, items, params
        self._room = asyncio.Semaphore(ahead or executor.ahead)
        self._told: asyncio.Queue[_Pair | int | Exception] = asyncio.Queue()  # calls; at last how many there are

    async def __aenter__(self) -> Self:
        self._calls = await asyncio.to_thread(self._executor.begin, self._function, self._params)
        return self

    def begun(self) -> AsyncIterator[_Pair]:
        """The calls in the order of the items."""
        return self._follow(lambda item, future: self._told.put_nowait((item, future)))

    def ended(self) -> AsyncIterator[_Pair]:
        """The calls as they end."""
        return self._follow(
            lambda item, future: future.add_done_callback(lambda done: self._told.put_nowait((item, done)))
        )

    async def _follow(self, note: Callable[[Any, "asyncio.Future[Any]"], None]) -> AsyncIterator[_Pair]:
        self._taking = asyncio.create_task(self._take(note))
        followed, count = 0, None
        while followed != count:
            told = await self._told.get()
            if isinstance(told, Exception):
                raise told
            if isinstance(told, int):
                count = told
            else:
                yield told
                followed += 1
                self._room.release()

    async def _take(self, note: Callable[[Any, "asyncio.Future[Any]"], None]) -> None:
        count, items = 0, _each(self._items)
        try:
            while True:
                await self._room.acquire()
                item = await anext(items)
                note(item, asyncio.wrap_future(self._calls.put([item])))
                count += 1
        except StopAsyncIteration:
            self._calls.close()
            self._told.put_nowait(count)
        except Exception as error:
            self._told.put_nowait(error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._taking.cancel()
        if error is not None:
            await asyncio.to_thread(self._calls.cancel)


async def _each(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    for item in items:
        yield item
