"""`map` of a Python program: items a second from the call to the last value, and how long one call takes."""

import time
from collections.abc import Iterator
from typing import Any

from bench.grid import running_grid
from bench.suites.latency import percentiles
from piecework import Executor

ITEMS, CALLS = 10_000, 100


def run(size: int | None = None) -> dict[str, Any]:
    items, calls = size or ITEMS, min(size or CALLS, CALLS)
    with running_grid() as grid:
        grid.client.register_processor("echo", {"function": "bench_tasks:echo"})
        with grid.client.executor() as executor:
            _map(executor, 500)  # pays for connections, prepared statements and warm children
            seconds = _map(executor, items)
            executor.submit("echo", 0).result()
            submitted = [_seconds_of_call(executor, number) for number in range(calls)]
            mapped = [_map(executor, 1) for _ in range(calls)]
        return {
            "grid": grid.shape,
            "items": items,
            "seconds": round(seconds, 3),
            "items_per_second": round(items / seconds),
            "submit_seconds": percentiles(submitted),
            "map_of_one_seconds": percentiles(mapped),
        }


def _map(executor: Executor, items: int) -> float:
    began = time.perf_counter()
    values = list(executor.map("echo", range(items)))
    seconds = time.perf_counter() - began
    assert values == list(range(items))
    return seconds


def _seconds_of_call(executor: Executor, number: int) -> float:
    began = time.perf_counter()
    assert executor.submit("echo", number).result() == number
    return time.perf_counter() - began


def report(results: dict[str, Any]) -> Iterator[str]:
    yield f"{results['items']:,} items in {results['seconds']:.2f} s: {results['items_per_second']:,} a second"
    for name, text in (("submit_seconds", "a call to its value"), ("map_of_one_seconds", "a map of one item, its job")):
        p50, p99 = (results[name][key] * 1000 for key in ("p50", "p99"))
        yield f"{text}: p50 {p50:.1f} ms, p99 {p99:.1f} ms"
