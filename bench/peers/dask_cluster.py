"""Dask (distributed): a scheduler and two worker processes of one thread, tasks mapped at once; nothing is durable."""

import time
from functools import cache

from distributed import Client, LocalCluster, wait

PACKAGES = ("dask", "distributed")
WORKERS: list[str] = []


@cache
def _client() -> Client:
    return Client(LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None))


def nothing(number: int) -> None:
    pass


def run(tasks: int) -> None:
    futures = _client().map(nothing, range(tasks), pure=False)
    wait(futures)
    assert all(future.status == "finished" for future in futures)


def start_one() -> float:
    return float(_client().submit(time.time, pure=False).result())
