"""A slot's child processes, kept between tasks so that a processor's imports stay warm."""

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from services.engine.attempt import StageWork
from services.worker.child.job import ChildJob
from services.worker.isolation.cells import Cells
from services.worker.isolation.view import View
from services.worker.task.child_process import ChildProcess
from services.worker.task.packages import Runtime

# Stages of a job are pipelined and jobs take turns, so a slot alternates between processors of several jobs. Each keeps
# a child of its own: starting one costs more than most tasks do.
CHILDREN_MAX = 12


@dataclass(frozen=True, slots=True)
class Served:
    """Whom a child serves: the tasks of a processor's version in one job (None: in all jobs), with the same view."""

    job_id: UUID | None
    processor: str
    version: int
    view: View = field(default_factory=View)

    @classmethod
    def of(cls, stage: StageWork, home: Path | None, inputs: Iterable[Path] = ()) -> "Served":
        """The tasks of a stage, with the home of their package and their declared inputs."""
        return cls(
            None if stage.spec.share_children else stage.job_id,
            stage.processor,
            stage.processor_version,
            View((*((home,) if home else ()), *inputs), network=stage.spec.network),
        )


class WarmChildren:
    """One child process for each of those most recently served, started when first needed."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._children: dict[Served, ChildProcess] = {}  # least recently used first; not those that do a job

    async def run(
        self,
        served: Served,
        runtime: Runtime,
        job: ChildJob,
        memory_bytes_max: int | None,
        killed: dict[str, Any],
        workspace: Path | None = None,
    ) -> dict[str, Any]:
        """Do a job, for which the child gets the directory `workspace`.

        ChildProcess.run documents results, errors, and `killed`; ChildProcess.start what else it raises. Raises
        PackageChanged.
        """
        async with self.lease(served, runtime, memory_bytes_max) as child:
            return await child.run(job, memory_bytes_max, killed, workspace)

    @asynccontextmanager
    async def lease(
        self, served: Served, runtime: Runtime, memory_bytes_max: int | None
    ) -> AsyncIterator[ChildProcess]:
        """A child for the caller alone; afterwards, it is kept if it is clean.

        Raises PackageChanged, and what ChildProcess.start raises.
        """
        child = self._children.pop(served, None)
        if child is not None and not _may_serve(child, memory_bytes_max):
            await child.kill()
            child = None
        if child is None:
            while len(self._children) >= CHILDREN_MAX:
                await self._children.pop(next(iter(self._children))).kill()
            if runtime.check:
                await runtime.check()
            child = await ChildProcess.start(self._cells, runtime.environment, runtime.python, served.view)
        try:
            yield child
        except BaseException:
            await child.kill()
            raise
        if child.clean:
            self._children[served] = child
        else:  # the processes, threads and open files that a task leaves behind end with it
            await child.kill()

    async def end_idle(self, idle_seconds: float) -> None:
        """End the children without a job for so long: they hold what a job has loaded that may have ended."""
        used_before = time.monotonic() - idle_seconds
        for served, child in list(self._children.items()):
            if child.answered_at <= used_before and self._children.get(served) is child:
                del self._children[served]
                await child.kill()

    async def close(self) -> None:
        while self._children:
            _, child = self._children.popitem()
            await child.kill()


def _may_serve(child: ChildProcess, memory_bytes_max: int | None) -> bool:
    """A task with a memory limit needs a child in which earlier tasks have not leaked too much."""
    has_room = memory_bytes_max is None or child.memory_bytes <= memory_bytes_max / 2
    return child.alive and has_room and child.cell.private.exists()  # its directory may have been swept away
