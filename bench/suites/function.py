"""Empty Python functions a second: what users run at least, in a child process of the worker, with files in S3."""

from collections.abc import Iterator
from typing import Any

from bench.grid import running_grid
from bench.suites.noop import measure_sizes, report_run

SIZES = (10_000,)


def run(size: int | None = None) -> dict[str, Any]:
    with running_grid() as grid:
        grid.client.register_processor("nothing", {"callable": "bench_tasks:nothing"})
        grid.run_job("nothing", 500)  # pays for connections, prepared statements and warm children
        return {"grid": grid.shape, "runs": list(measure_sizes(grid, "nothing", [size] if size else SIZES))}


def report(results: dict[str, Any]) -> Iterator[str]:
    return map(report_run, results["runs"])
