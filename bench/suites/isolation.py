"""What each level of isolation costs: the start of a child, and empty Python functions in a warm one, a second.

One slot without a grid: the worker's own `WarmChildren` with jobs made here, one after the other. A level that does not
work on this machine (`uid` needs an interpreter that every user may read) is left out, with the reason.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.grid import TASKS
from services.contract.states import ISOLATIONS, Isolation
from services.platform.settings import WorkerSettings
from services.worker.child.job import CallableJob
from services.worker.isolation.cells import Cells
from services.worker.isolation.errors import IsolationUnusable
from services.worker.task.levels import strongest_cells
from services.worker.task.packages import Runtime
from services.worker.task.paths import Workspace
from services.worker.task.scratch import remove_tree
from services.worker.task.warm_children import Served, WarmChildren

STARTS = 20
TASKS_IN_A_ROW = 2000


def run(size: int | None = None) -> dict[str, Any]:
    found = {}
    for level in ISOLATIONS:
        with tempfile.TemporaryDirectory() as scratch:
            Path(scratch).chmod(0o711)
            found[level] = asyncio.run(_measure(level, Path(scratch), size))
    return {"levels": found}


async def _measure(level: Isolation, directory: Path, size: int | None) -> dict[str, Any]:
    try:
        cells = await strongest_cells(WorkerSettings(isolation=level), directory)
    except IsolationUnusable as error:
        return {"unusable": str(error)}
    starts = [await _seconds(cells, 1) for _ in range(STARTS)]
    tasks = size or TASKS_IN_A_ROW
    warm = await _seconds(cells, tasks) - statistics.median(starts)
    return {
        "start_milliseconds": round(statistics.median(starts) * 1000, 1),
        "starts": STARTS,
        "tasks": tasks,
        "tasks_per_second": round(tasks / warm),
    }


async def _seconds(cells: Cells, tasks: int) -> float:
    """How long a new slot takes for this many tasks of one job; the first starts the child."""
    slot, runtime = WarmChildren(cells), Runtime(sys.executable, {**os.environ, "PYTHONPATH": str(TASKS)})
    began = time.perf_counter()
    for number in range(tasks):
        workspace = Workspace(cells.directory / f"t-{number}")
        workspace.make()
        answer = await slot.run(
            Served(None, "nothing", 1), runtime, _job(workspace, runtime), None, {}, workspace.directory
        )
        assert "error" not in answer, answer["error"]
        remove_tree(workspace.directory)
    seconds = time.perf_counter() - began
    await slot.close()
    return seconds


def _job(workspace: Workspace, runtime: Runtime) -> CallableJob:
    return {
        "kind": "callable",
        "function": "bench_tasks:nothing",
        "directory": str(workspace.work),
        "environment": {**runtime.environment, "TMPDIR": str(workspace.tmp)},
        "log": str(workspace.log),
        "input": str(workspace.directory / "input"),
        "output": str(workspace.output / "output"),
        "steps": [],
        "checks": [],
        "params": {},
        "paths": {},
        "items": None,
    }


def report(results: dict[str, Any]) -> Iterator[str]:
    for level, found in results["levels"].items():
        if "unusable" in found:
            yield f"{level}: {found['unusable']}"
        else:
            yield (
                f"{level}: a child's first task ends after {found['start_milliseconds']:.0f} ms (median of "
                f"{found['starts']}), then {found['tasks_per_second']:,} empty functions/s in one slot"
            )
