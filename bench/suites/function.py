"""Empty Python functions a second: what users run at least, in a child process of the worker.

As `function`, value in and value out, and as `callable`, with files.
"""

from collections.abc import Iterator
from typing import Any

from bench.grid import running_grid
from bench.suites.noop import measure_sizes, report_run

SIZES = (10_000,)
VALUES_SIZES = (10_000, 100_000)


def run(size: int | None = None) -> dict[str, Any]:
    with running_grid() as grid:
        grid.client.register_processor("nothing", {"callable": "bench_tasks:nothing"})
        grid.client.register_processor("echo", {"function": "bench_tasks:echo"})
        for processor in ("nothing", "echo"):
            grid.run_job(processor, 500)  # pays for connections, prepared statements and warm children
        return {
            "grid": grid.shape,
            "values": list(measure_sizes(grid, "echo", [size] if size else VALUES_SIZES)),
            "runs": list(measure_sizes(grid, "nothing", [size] if size else SIZES)),
        }


def report(results: dict[str, Any]) -> Iterator[str]:
    for kind in ("values", "runs"):
        for each in results.get(kind, ()):
            yield f"{'callable' if kind == 'runs' else 'function'} {report_run(each)}"
