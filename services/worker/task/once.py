"""Work that several tasks of this worker need, done once."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Once(Generic[K, V]):
    """Results by key. The first caller starts the work, the others wait for it too.

    The work continues if those who wait give up. A failure goes only to them: the next caller starts again. Of more
    than `kept_max` results, the least recently used is forgotten.
    """

    def __init__(self, work: Callable[[K], Coroutine[Any, Any, V]], kept_max: int | None = None) -> None:
        self._work = work
        self._kept_max = kept_max
        self._tasks: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K) -> V:
        """Raises what the work raises."""
        task = self._tasks.pop(key, None)
        if task is None:
            task = asyncio.create_task(self._work(key))
            task.add_done_callback(lambda done: self._forget_failure(key, done))
        self._tasks[key] = task
        if self._kept_max is not None and len(self._tasks) > self._kept_max:
            self.forget(next(iter(self._tasks)))
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
        if (done.cancelled() or done.exception() is not None) and self._tasks.get(key) is done:
            self.forget(key)
