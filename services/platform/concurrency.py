"""Many calls, a limited number of them at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def is_cancelled() -> bool:
    """Whether the current task was told to end: asyncpg may raise an error of its own in CancelledError's place."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def map_at_most(limit: int, work: Callable[[T], Awaitable[R]], items: Iterable[T]) -> list[R]:
    """The results of `work` for each item, in order, with at most `limit` calls at once. Raises what a call raises."""
    gate = asyncio.Semaphore(limit)

    async def do(item: T) -> R:
        async with gate:
            return await work(item)

    return await asyncio.gather(*map(do, items))
