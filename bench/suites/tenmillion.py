"""A job of ten million no-op tasks, about nine minutes: is memory flat, and is its progress read as fast as any job's?

Every few seconds the memory of each service is sampled, and the progress read once as users read it: GET /v1/jobs/ID.
After the end, with all rows there, the progress is read a thousand times, one read after the other.
"""

import time
from collections.abc import Iterator
from typing import Any

import httpx

from bench.grid import APART, TERMINAL, Grid, running_grid
from bench.suites.latency import percentiles
from bench.suites.noop import job_seconds
from bench.usage import memory_bytes

_TASKS = 10_000_000
_SAMPLE_SECONDS = 4.0
_READS = 1000


def run(size: int | None = None) -> dict[str, Any]:
    tasks = size or _TASKS
    with running_grid() as grid, _connect(grid) as http:
        grid.client.register_processor("noop", {"builtin": "noop"})
        grid.run_job("noop", 10_000)
        with grid.measured() as usage:
            url = f"{grid.settings.api_url}/v1/jobs/{grid.submit('noop', tasks)}"
            samples = list(_follow(grid, http, url))
        job = grid.await_job(url.rpartition("/")[2])
        seconds = job_seconds(job)
        reads = [_read(http, url)[0] for _ in range(_READS)]
    return {
        "grid": grid.shape,
        "tasks": tasks,
        "seconds": round(seconds, 3),
        "tasks_per_second": round(tasks / seconds),
        "progress_seconds": percentiles(reads),
        "progress_while_running_seconds": percentiles([sample["read_seconds"] for sample in samples]),
        "memory_peak_bytes": usage.memory_peak_bytes,
        "per_1000_tasks": usage.per_1000(tasks, APART),
        "requests": usage.requests,
        "samples": samples,
    }


def _connect(grid: Grid) -> httpx.Client:
    return httpx.Client(headers=grid.authorization, timeout=60.0, trust_env=False)


def _follow(grid: Grid, http: httpx.Client, url: str) -> Iterator[dict[str, Any]]:
    started = time.monotonic()
    state = ""
    while state not in TERMINAL:
        time.sleep(_SAMPLE_SECONDS)
        seconds, job = _read(http, url)
        state = job["state"]
        yield {
            "seconds": round(time.monotonic() - started, 2),
            "tasks_done": job["stages"][0]["progress"]["succeeded"],
            "read_seconds": round(seconds, 5),
            "memory_bytes": memory_bytes({name: grid.processes[name] for name in grid.services}),
        }


def _read(http: httpx.Client, url: str) -> tuple[float, dict[str, Any]]:
    started = time.monotonic()
    answer = http.get(url)
    seconds = time.monotonic() - started
    return seconds, answer.raise_for_status().json()


def report(results: dict[str, Any]) -> Iterator[str]:
    yield (f"{results['tasks']:,} no-op tasks in {results['seconds']:.0f} s: {results['tasks_per_second']:,} tasks/s")
    for key, when in (("progress_seconds", "afterwards"), ("progress_while_running_seconds", "while it ran")):
        p50, p99 = (results[key][name] * 1000 for name in ("p50", "p99"))
        yield f"progress read {when}: p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    first = results["samples"][0]["memory_bytes"]
    for name, peak in results["memory_peak_bytes"].items():
        yield f"{name:<10} {first[name] / 1e6:5.0f} MB at first, {peak / 1e6:5.0f} MB at most"
