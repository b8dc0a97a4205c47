"""A task of a processor of kind `image`: its container, with the same files, limits and variables as a command has.

What is done with the task's data beside it (its input is prepared, its log and its counts are read) is done by the
slot's child, in the child's isolation, before the container starts and after its end.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any

from services.contract.task_error import TaskError
from services.engine.attempt import ClaimedTask, StageWork
from services.platform.settings import WorkerSettings
from services.platform.threads import beside_loop
from services.worker.isolation.cells import Cell, Cells, Given
from services.worker.isolation.uids import Uids
from services.worker.isolation.view import View
from services.worker.task.credentials import FOR_CONTAINERS, TaskCredentials
from services.worker.task.engine import Container, Ended, Engine, EngineUnusable, ImageGone, Limits, find_engine
from services.worker.task.environment import container_environment
from services.worker.task.hardware import listed_gpus
from services.worker.task.images import Images
from services.worker.task.paths import Paths, Workspace
from services.worker.task.pins import Pins
from services.worker.task.placeholders import image_arguments
from services.worker.task.registries import Registries
from services.worker.task.scratch import remove_tree
from services.worker.task.share import Share
from services.worker.task.user_files import UserFiles

_TRIES = 3  # an image may be removed for others between its pull and its use
_VISIBLE = "CUDA_VISIBLE_DEVICES"  # by number; a container counts those that it has from 0
# Images for GPUs ask for all by this variable, and an engine whose runtime is NVIDIA's gives them what it says.
# https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/docker-specialized.html
_GIVEN = "NVIDIA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Work:
    """What an attempt brings to its container."""

    task: ClaimedTask
    stage: StageWork
    image_id: str
    environment: Mapping[str, str]
    workspace: Workspace
    paths: Paths
    share: Share


@dataclass(frozen=True, slots=True)
class Containers:
    """A node's engine, its images, and the users that its containers run as."""

    engine: Engine
    images: Images
    cells: Cells
    environment: Mapping[str, str]  # what all of them get
    labels: Mapping[str, str]

    async def run(self, work: Work, killed: dict[str, Any]) -> Ended:
        """Run the task's container. Raises what Engine.run does, but ImageGone, and what Images.get does."""
        image, workspace = work.stage.spec.image or "", work.workspace
        cell = await asyncio.to_thread(self.cells.make, View(), work.environment)
        try:
            with await beside_loop(_open_log, workspace.files, workspace.log) as log:
                given = await asyncio.to_thread(cell.give, workspace.directory)
                try:
                    container = self._container(work, cell, given)
                    for _ in range(_TRIES):
                        try:
                            return await self.engine.run(container, log.fileno(), killed)
                        except ImageGone:
                            container = replace(container, image=await self.images.get(work.task.job_id, image))
                    raise TaskError("image_unavailable", f"the image {image} is removed again and again")
                finally:
                    await asyncio.shield(asyncio.to_thread(cell.take_back, given))
                    await beside_loop(_restore_log, workspace)
        finally:
            await asyncio.shield(asyncio.to_thread(cell.close))

    def _container(self, work: Work, cell: Cell, given: Given) -> Container:
        task, stage, workspace, share = work.task, work.stage, work.workspace, work.share
        spec, limits = stage.spec, self.cells.limits
        entrypoint, command = image_arguments(spec, paths=work.paths, index=task.index, params=stage.params)
        variables = {"HOME": str(workspace.tmp), **work.environment}
        visible = variables.pop(_VISIBLE, None)
        gpus = _gpus(visible) if share.gpus is None else share.gpus
        if gpus is not None:
            variables[_GIVEN] = ",".join(gpus) or "void"
        return Container(
            name=f"piecework-{workspace.directory.parent.name}-{workspace.directory.name}",
            image=work.image_id,
            entrypoint=entrypoint,
            command=command,
            environment=variables,
            uid=os.geteuid() if cell.uid is None else cell.uid,
            gid=os.getegid() if cell.uid is None else cell.uid,
            directory=workspace.work,
            writable=[given.inside],
            readable=[work.paths.input, *work.paths.inputs.values()],
            network=spec.network,
            gpus=gpus,
            limits=Limits(
                share.memory_of(stage.memory_bytes),
                share.cpus,
                limits.processes_max,
                limits.file_bytes_max,
                limits.shared_memory_bytes,
            ),
            labels={
                **self.labels,
                "piecework.task": f"{task.job_id}/{task.stage}/{task.index}",
                "piecework.attempt": str(task.attempt),
            },
        )


def _gpus(visible: str | None) -> tuple[str, ...] | None:
    """What a command would see that asks for nothing: those that the variable names, or all (None) if there are any."""
    if visible is not None:
        return listed_gpus(visible)
    return None if Path("/dev/nvidiactl").exists() else ()


def _open_log(files: UserFiles, path: Path) -> FileIO:
    """The task's log, to be written at its end. Raises TaskError (output_invalid) and OSError."""
    if (log := files.open(path, write=True)) is None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        log = FileIO(os.open(path.name, flags, 0o600, dir_fd=files.fileno()), "w")
    log.seek(0, os.SEEK_END)
    return log


def _restore_log(workspace: Workspace) -> None:
    """Remove what the task may have put in the place of its log: who opens it could wait forever."""
    try:
        workspace.files.has_file(workspace.log)
    except TaskError:
        remove_tree(workspace.log)


@asynccontextmanager
async def find_containers(
    settings: WorkerSettings, s3: Any, cells: Cells, credentials: TaskCredentials
) -> AsyncIterator[Containers | None]:
    """What runs tasks in containers here, with the limits of `cells`; None without an engine. Raises EngineUnusable."""
    directory = cells.directory
    async with find_engine(settings.container_engine, directory) as engine:
        if engine is None:
            yield None
            return
        own = (
            Cells("uid", directory, uids=Uids.parse(settings.task_uids), limits=cells.limits)
            if os.geteuid() == 0
            else Cells("process", directory, limits=cells.limits)
        )
        layout = settings.layout
        marks = Path(settings.cache) / "images"
        images = Images(
            engine.docker,
            Pins(s3, layout),
            Registries(settings),
            marks,
            settings.images_bytes_max,
            digests_for_all=engine.is_podman,
        )
        environment = container_environment(settings) | await _credentials(credentials)
        try:
            yield Containers(engine, images, own, environment, {"piecework.grid": layout.root.uri})
        finally:
            await images.close()


async def _credentials(credentials: TaskCredentials) -> dict[str, str]:
    """Raises EngineUnusable."""
    try:
        return await credentials.variables(FOR_CONTAINERS)
    except OSError as error:
        raise EngineUnusable(
            f"tasks in containers ask for credentials of PIECEWORK_TASK_ROLE at {FOR_CONTAINERS}, where it "
            f"can't listen ({error.strerror}): run `ip address add {FOR_CONTAINERS}/32 dev lo` on the machine, or set "
            "PIECEWORK_CONTAINER_ENGINE=none"
        ) from error
