"""The level of isolation that works here: each is tried with a real child, which does a real job.

sandbox: a child sees nothing of the machine but what its tasks need; uid: it is another user than the worker; process:
it is a process of the worker's user.
"""

import time
from collections.abc import Mapping
from pathlib import Path

from services.contract.states import ISOLATIONS, Isolation
from services.contract.task_error import TaskError
from services.platform.settings import WorkerSettings
from services.worker.child.job import ProgramJob
from services.worker.isolation.cells import Cells, Limits
from services.worker.isolation.cgroups import Cgroups
from services.worker.isolation.errors import IsolationUnusable
from services.worker.isolation.uids import Uids
from services.worker.isolation.view import View
from services.worker.task.child_process import ChildProcess
from services.worker.task.environment import base_environment
from services.worker.task.paths import Workspace
from services.worker.task.scratch import remove_tree

_proven: dict[Isolation, bool] = {}  # levels that work in this process, and whether they can take the network away


async def strongest_cells(settings: WorkerSettings, directory: Path) -> Cells:
    """Cells of the level that the settings name, or else of the strongest that works here.

    Raises IsolationUnusable if the named level does not work.
    """
    reasons: list[str] = []
    for level in [settings.isolation] if settings.isolation else ISOLATIONS:
        try:
            return await _try(level, settings, directory)
        except (IsolationUnusable, TaskError, OSError) as error:
            reasons.append(f"{level}: {error}")
    named = f"PIECEWORK_ISOLATION={settings.isolation} does not work here" if settings.isolation else "no child starts"
    raise IsolationUnusable(f"{named}: {'; '.join(reasons)}")


async def _try(level: Isolation, settings: WorkerSettings, directory: Path) -> Cells:
    """Raises IsolationUnusable, TaskError and OSError."""
    cells = Cells(
        level,
        directory,
        uids=Uids.parse(settings.task_uids),
        limits=Limits(settings.processes_max, settings.file_bytes_max),
        readable=[path for path in settings.readable.split(":") if path],
        cgroups=Cgroups.find(),
    )
    if level == "process":  # which asks nothing of the machine
        return cells
    if level not in _proven:
        await do_a_job(cells, base_environment(settings), View())
        _proven[level] = cells.takes_network and (level != "uid" or await _takes_network(cells, settings))
    cells.takes_network = _proven[level]
    return cells


async def _takes_network(cells: Cells, settings: WorkerSettings) -> bool:
    """A namespace of the network takes a right that not every root has."""
    try:
        await do_a_job(cells, base_environment(settings), View(network=False))
    except (TaskError, OSError):
        return False
    return True


async def do_a_job(cells: Cells, environment: Mapping[str, str], view: View) -> None:
    """Start a child and have it run a program. Raises IsolationUnusable, TaskError and OSError."""
    workspace = Workspace(cells.directory / f"probe-{time.monotonic_ns()}")
    child = await ChildProcess.start(cells, environment, view=view)
    try:
        workspace.make()
        job: ProgramJob = {
            "kind": "program",
            "arguments": ["/bin/sh", "-c", ": > ../output/done"],
            "directory": str(workspace.work),
            "environment": {**environment, "TMPDIR": str(workspace.tmp)},
            "log": str(workspace.log),
        }
        answer = await child.run(job, workspace=workspace.directory)
        if "error" in answer:
            raise IsolationUnusable(answer["error"]["message"])
        if not (workspace.output / "done").exists():
            raise IsolationUnusable("a child's file did not arrive")
    finally:
        await child.kill()
        remove_tree(workspace.directory)
