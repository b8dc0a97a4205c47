"""multiprocessing.Pool(2).map of the standard library: the limit, since nothing is kept anywhere and nobody may die."""

import time
from functools import cache
from multiprocessing import get_context
from multiprocessing.pool import Pool

PACKAGES: tuple[str, ...] = ()
WORKERS: list[str] = []


@cache
def _pool() -> Pool:
    return get_context("fork").Pool(2)


def nothing(number: int) -> None:
    pass


def run(tasks: int) -> None:
    """`map` raises what a task raised."""
    _pool().map(nothing, range(tasks))


def start_one() -> float:
    return _pool().apply(time.time)
