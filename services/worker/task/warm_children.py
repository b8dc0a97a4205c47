"""A slot's child processes, kept between tasks so that a processor's imports stay warm."""

from pathlib import Path
from typing import Any

from services.worker.child.job import ChildJob
from services.worker.task.child_process import ChildProcess
from services.worker.task.packages import Runtime

# Stages of a job are pipelined, so a slot alternates between a few processors; each keeps a child of its own.
CHILDREN_MAX = 4

Processor = tuple[str, int]  # name and version


class WarmChildren:
    """One child process for each of the most recently used processors, started when first needed.

    Their temporary files go below `directory`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._children: dict[Processor, ChildProcess] = {}  # least recently used first

    async def run(
        self,
        processor: Processor,
        runtime: Runtime,
        job: ChildJob,
        memory_bytes_max: int | None,
        killed: dict[str, Any],
    ) -> dict[str, Any]:
        """Do a job of a processor; ChildProcess.run documents results, errors, and `killed`."""
        child = self._children.pop(processor, None)
        if child is not None and not _may_serve(child, memory_bytes_max):
            await child.kill()
            child = None
        if child is None:
            while len(self._children) >= CHILDREN_MAX:
                await self._children.pop(next(iter(self._children))).kill()
            child = await ChildProcess.start(runtime.environment, self._directory, runtime.python)
        answer = await child.run(job, memory_bytes_max, killed)
        if child.clean:
            self._children[processor] = child
        else:  # the processes, threads and open files that a task leaves behind end with it
            await child.kill()
        return answer

    async def close(self) -> None:
        while self._children:
            _, child = self._children.popitem()
            await child.kill()


def _may_serve(child: ChildProcess, memory_bytes_max: int | None) -> bool:
    """A task with a memory limit needs a child in which earlier tasks have not leaked too much."""
    return child.alive and (memory_bytes_max is None or child.memory_bytes <= memory_bytes_max / 2)
