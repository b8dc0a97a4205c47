"""A grid with nothing to do: CPU of all services together, and what they ask of AWS, over a minute."""

import time
from collections.abc import Iterator
from typing import Any

from bench.grid import running_grid
from bench.prices import dollars

_SETTLE_SECONDS = 30.0
_SECONDS = 60.0
_HOURS_A_MONTH = 730


def run(size: int | None = None) -> dict[str, Any]:
    with running_grid() as grid:
        time.sleep(_SETTLE_SECONDS)
        with grid.measured() as usage:
            time.sleep(_SECONDS)
        services = sum(usage.cpu_seconds[name] for name in grid.services)
        hours = usage.seconds / 3600
        return {
            "grid": grid.shape,
            "seconds": usage.seconds,
            "cpu_seconds": usage.cpu_seconds,
            "cpu_percent_of_a_core": round(100 * services / usage.seconds, 2),
            "requests": usage.requests,
            "requests_an_hour": {name: round(count / hours) for name, count in usage.requests.items()},
            "dollars_a_month": round(dollars(usage.requests) / hours * _HOURS_A_MONTH, 4),
            "memory_bytes": usage.memory_peak_bytes,
        }


def report(results: dict[str, Any]) -> Iterator[str]:
    cpu = results["cpu_seconds"]
    yield f"idle: {results['cpu_percent_of_a_core']} % of a core for all services over {results['seconds']:.0f} s"
    yield "  CPU seconds: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in cpu.items())
    asked = ", ".join(f"{name} {count}" for name, count in results["requests_an_hour"].items())
    yield f"  AWS requests an hour: {asked}; ${results['dollars_a_month']} a month"
