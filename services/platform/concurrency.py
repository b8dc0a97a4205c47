"""Many calls, a limited number of them at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def map_at_most(limit: int, work: Callable[[T], Awaitable[R]], items: Iterable[T]) -> list[R]:
    """What `work` makes of each item, in their order, no more than `limit` at once; raises what one of them raises."""
    gate = asyncio.Semaphore(limit)

    async def do(item: T) -> R:
        async with gate:
            return await work(item)

    return await asyncio.gather(*map(do, items))
