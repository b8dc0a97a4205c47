"""Work that several tasks of this worker need, done once."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Once(Generic[K, V]):
    """Results by key. The first caller starts the work, the others wait for it too.

    The work continues if those who wait give up. A failure goes only to them: the next caller starts again.
    """

    def __init__(self, work: Callable[[K], Coroutine[Any, Any, V]]) -> None:
        self._work = work
        self._tasks: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K) -> V:
        """Raises what the work raises."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(self._work(key))
            task.add_done_callback(lambda done: self._forget_failure(key, done))
        return await asyncio.shield(task)

    def forget(self, key: K) -> None:
        """Forget a result."""
        self._tasks.pop(key, None)

    async def close(self) -> None:
        """Cancel the work in progress."""
        tasks = [task for task in self._tasks.values() if not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget_failure(self, key: K, done: asyncio.Task[V]) -> None:
        if done.cancelled() or done.exception() is not None:
            self.forget(key)
