"""The node's container engine, Docker or Podman, by Docker's API: https://docs.docker.com/reference/api/engine/.

Each container carries labels that tell whose it is. It is removed by the attempt that started it; if the worker dies
before, by the worker's guard (task/engine_guard), and if that has died too, by the next worker with the same scratch.
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aiodocker
import aiohttp
import structlog
from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError

from services.contract.task_error import TaskError
from services.platform import effects
from services.worker.task import engine_guard
from services.worker.task.memory_watch import MemoryExceeded

log = structlog.get_logger()

LABEL = "piecework.worker"  # the scratch directory of the worker that a container belongs to

_ASK_SECONDS = 60.0  # for an answer, where nothing is waited for
_FIND_SECONDS = 10.0
_DRAIN_SECONDS = 10.0  # for what the container has printed, after its end
_CPUS_MIN = 0.01  # engines take no less
_FILES_MAX = 65_536  # open at the same time, as for a task without a container
_NO_PROGRAM = ("executable file not found", "no such file or directory", "permission denied", "exec format error")


class EngineUnusable(Exception):
    """The engine that the settings name does not answer, or runs no Linux containers."""


class ImageGone(Exception):
    """The image is not there (any more)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a container may use. `processes_max` counts threads, too."""

    memory_bytes: int
    cpus: float
    processes_max: int
    file_bytes_max: int | None
    shared_memory_bytes: int


@dataclass(frozen=True, slots=True)
class Container:
    """A task's container: paths are the same inside and outside. The image's own program and arguments if None."""

    name: str
    image: str
    entrypoint: Sequence[str] | None
    command: Sequence[str] | None
    environment: Mapping[str, str]
    uid: int
    gid: int
    directory: Path  # the current directory
    writable: Sequence[Path]
    readable: Sequence[Path]
    network: bool
    gpus: Sequence[str] | None  # their numbers; None: all that the engine can give
    limits: Limits
    labels: Mapping[str, str]


class Ended(NamedTuple):
    """How a container has ended. What it used was measured once a second."""

    exit_code: int
    cpu_seconds: float
    memory_bytes_peak: int


class Engine:
    """One for all attempts of a node."""

    def __init__(
        self,
        docker: aiodocker.Docker,
        name: str,
        socket: str,
        worker: Path,
        *,
        cpus: int,
        is_podman: bool,
        rootless: bool,
    ) -> None:
        self.docker = docker
        self.name = name  # such as `docker 28.2.2`
        self.is_podman = is_podman
        self._cpus = cpus  # of the machine: an engine refuses a container that may have more
        self._socket = socket
        self._worker = str(worker)
        self._keep_id = is_podman and rootless
        self._guard: subprocess.Popen[bytes] | None = None
        self._removing: set[asyncio.Future[None]] = set()

    async def run(self, container: Container, log_file: int, killed: dict[str, Any]) -> Ended:
        """Run a container to its end, with what it prints going to the open file.

        `killed` gets what it has used if that is all there will be. Raises ImageGone, MemoryExceeded, TaskError
        (processor_load, node_unfit), OSError from the file, CancelledError; the container is gone then.
        """
        self._watch_over()
        creating = asyncio.ensure_future(self._create(container))
        used = _Used()
        try:
            created = await asyncio.shield(creating)
            return await self._run(created, container, log_file, used)
        except DockerError as error:
            raise _explain(error, container) from error
        except (aiohttp.ClientError, TimeoutError) as error:  # not the attempt's own timeout, which cancels
            raise TaskError("node_unfit", f"the container engine does not answer: {error!r}") from error
        except BaseException:
            killed |= {"cpu_seconds": used.cpu_seconds, "memory_bytes_peak": used.memory_bytes_peak}
            raise
        finally:
            removing = asyncio.ensure_future(_remove(creating))
            self._removing.add(removing)
            removing.add_done_callback(self._removing.discard)
            await asyncio.shield(removing)

    async def _create(self, container: Container) -> DockerContainer:
        config = _config(container, self._cpus, keep_id=self._keep_id) | {
            "Labels": {**container.labels, LABEL: self._worker}
        }
        async with asyncio.timeout(_ASK_SECONDS):
            return await self.docker.containers.create(config, name=container.name)

    async def _run(self, created: DockerContainer, container: Container, log_file: int, used: "_Used") -> Ended:
        async with created.attach(stdout=True, stderr=True) as stream:
            copying = asyncio.create_task(_copy(stream, log_file))
            with effects.passing("process", "container"):
                async with asyncio.timeout(_ASK_SECONDS):
                    await created.start()
            measuring = asyncio.create_task(used.follow(created))
            waiting = asyncio.create_task(created.wait())
            try:
                await asyncio.wait({waiting, copying}, return_when=asyncio.FIRST_COMPLETED)
                if copying.done():
                    copying.result()  # a full disk ends the container
                await waiting
                await asyncio.wait({copying}, timeout=_DRAIN_SECONDS)
                if copying.done():
                    copying.result()
            finally:
                for task in (copying, measuring, waiting):
                    task.cancel()
                await asyncio.gather(copying, measuring, waiting, return_exceptions=True)
        async with asyncio.timeout(_ASK_SECONDS):
            state = (await created.show())["State"]
        if state["OOMKilled"]:
            memory_bytes = container.limits.memory_bytes
            raise MemoryExceeded(memory_bytes, memory_bytes)
        return Ended(int(state["ExitCode"]), used.cpu_seconds, used.memory_bytes_peak)

    def _watch_over(self) -> None:
        """Start the guard, unless there is one: it removes this worker's containers if the worker dies."""
        if self._guard is None or self._guard.poll() is not None:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", engine_guard.__file__, self._socket, f"{LABEL}={self._worker}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                start_new_session=True,
            )

    async def remove_orphans(self) -> None:
        """Remove containers of workers with the same scratch that are dead: their directories are gone."""
        filters = json.dumps({"label": [LABEL]})
        for found in await self.docker.containers.list(all=True, filters=filters):
            worker = found["Labels"][LABEL]
            same_scratch = os.path.dirname(worker) == os.path.dirname(self._worker)  # noqa: PTH120
            if same_scratch and not await asyncio.to_thread(os.path.exists, worker):
                log.warning("container of a dead worker removed", container=found["Names"], worker=worker)
                await _delete(found)

    async def close(self) -> None:
        if self._removing:
            await asyncio.wait(self._removing)
        if self._guard is not None:
            await asyncio.to_thread(self._guard.communicate)  # there is nothing left for it to remove
        await self.docker.close()


@asynccontextmanager
async def find_engine(named: str, worker: Path) -> AsyncIterator[Engine | None]:
    """The engine that `named` says (a unix:// URL; `none`), or else the first of the usual ones that answers.

    `worker` is the worker's scratch directory. Raises EngineUnusable.
    """
    engine = None
    for url in [named] if named else _usual_places():
        if url == "none":
            break
        try:
            engine = await _open(url, worker)
            break
        except EngineUnusable as error:
            if named:
                raise
            log.info("container engine not used", error=str(error))
    try:
        if engine is not None:
            await engine.remove_orphans()
        yield engine
    finally:
        if engine is not None:
            await engine.close()


def _usual_places() -> list[str]:
    """Those of Docker, of Podman, and of a user's own."""
    own = os.environ.get("XDG_RUNTIME_DIR")
    places = ["/run/docker.sock", "/run/podman/podman.sock", *([f"{own}/podman/podman.sock"] if own else [])]
    return [f"unix://{place}" for place in places if os.access(place, os.W_OK)]


async def _open(url: str, worker: Path) -> Engine:
    docker = aiodocker.Docker(url, timeout=aiohttp.ClientTimeout(total=None, sock_connect=_FIND_SECONDS))
    try:
        async with asyncio.timeout(_FIND_SECONDS):
            info, version = await docker.system.info(), await docker.version()
        if info["OSType"] != "linux":
            raise EngineUnusable(f"the container engine at {url} runs containers of {info['OSType']}, not of Linux")
    except (DockerError, aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        await docker.close()
        raise EngineUnusable(f"the container engine at {url} does not answer: {error!r}") from error
    is_podman = any("podman" in str(part.get("Name")).lower() for part in version.get("Components") or ())
    rootless = any("rootless" in option for option in info.get("SecurityOptions") or ())
    name = f"{'podman' if is_podman else 'docker'} {version['Version']}"
    return Engine(
        docker,
        name,
        url.removeprefix("unix://"),
        worker,
        cpus=int(info["NCPU"]),
        is_podman=is_podman,
        rootless=rootless,
    )


def _config(container: Container, cpus_max: int, *, keep_id: bool) -> dict[str, Any]:
    """The body of POST /containers/create."""
    limits = container.limits
    # More than the worker itself may have takes a right that not every root has.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files_max = _FILES_MAX if hard == resource.RLIM_INFINITY else min(_FILES_MAX, hard)
    ulimits = {"nofile": files_max, "core": 0} | ({"fsize": limits.file_bytes_max} if limits.file_bytes_max else {})
    if container.uid != os.geteuid():  # a user of its own: Podman would set the kernel's most, by that right
        ulimits["nproc"] = limits.processes_max
    mounts = [(path, False) for path in container.writable] + [(path, True) for path in container.readable]
    host: dict[str, Any] = {
        "Mounts": [
            {"Type": "bind", "Source": str(path), "Target": str(path), "ReadOnly": only} for path, only in mounts
        ],
        "Tmpfs": {"/tmp": "rw,nosuid,nodev,exec,mode=1777"},  # part of its memory
        "ReadonlyRootfs": True,
        "Init": True,  # it reaps orphans, and passes on how the program has ended
        "NetworkMode": "bridge" if container.network else "none",
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,  # memory and swap together
        "NanoCpus": round(min(max(limits.cpus, _CPUS_MIN), cpus_max) * 1e9),
        "PidsLimit": limits.processes_max,
        "ShmSize": limits.shared_memory_bytes,
        "Ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in ulimits.items()],
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "LogConfig": {"Type": "none"},  # the worker keeps what it prints
    }
    if keep_id:
        host["UsernsMode"] = "keep-id"
    if container.gpus is None or container.gpus:
        which = {"Count": -1} if container.gpus is None else {"DeviceIDs": list(container.gpus)}
        host["DeviceRequests"] = [{"Driver": "", "Capabilities": [["gpu"]], **which}]
    config: dict[str, Any] = {
        "Image": container.image,
        "User": f"{container.uid}:{container.gid}",
        "Env": [f"{name}={value}" for name, value in container.environment.items()],
        "WorkingDir": str(container.directory),
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": host,
    }
    if container.entrypoint is not None:
        config["Entrypoint"] = list(container.entrypoint)
    if container.command is not None:
        config["Cmd"] = list(container.command)
    return config


def _explain(error: DockerError, container: Container) -> Exception:
    """What an answer of the engine means for the attempt: if it is not the image's fault, it is the node's."""
    message = error.message
    if error.status == 404 and "no such image" in message.lower():
        return ImageGone(container.image)
    if error.status in (400, 404, 500) and any(what in message.lower() for what in _NO_PROGRAM) and "exec" in message:
        return TaskError("processor_load", f"can't run {container.image}: {message}", retryable=False, exit_code=127)
    if error.status == 400:
        return TaskError("processor_load", f"the engine refuses {container.image}: {message}", retryable=False)
    return TaskError("node_unfit", f"the container engine failed: {error}")


async def _copy(stream: Any, log_file: int) -> None:
    while (message := await stream.read_out()) is not None:
        left = memoryview(message.data)
        while left:
            left = left[os.write(log_file, left) :]


async def _remove(creating: asyncio.Future[DockerContainer]) -> None:
    """Remove a container, running or not, once its creation has ended."""
    await asyncio.wait({creating})
    if not creating.cancelled() and creating.exception() is None:
        await _delete(creating.result())


async def _delete(container: DockerContainer) -> None:
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            await container.delete(force=True, v=True)
    except DockerError as error:
        if error.status not in (404, 409):  # gone, or being removed
            log.error("container not removed", container=container.id, error=str(error))
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        log.error("container not removed", container=container.id, error=repr(error))


class _Used:
    """What a container has used so far, as the engine tells once a second."""

    def __init__(self) -> None:
        self.cpu_seconds = 0.0
        self.memory_bytes_peak = 0

    async def follow(self, container: DockerContainer) -> None:
        with suppress(DockerError, aiohttp.ClientError, OSError):
            async for told in container.stats(stream=True):
                memory = told.get("memory_stats") or {}
                kept = memory.get("stats") or {}
                files = kept.get("total_inactive_file", kept.get("inactive_file", 0))  # cgroups of version 1 and 2
                self.memory_bytes_peak = max(self.memory_bytes_peak, memory.get("usage", 0) - files)
                cpu = (told.get("cpu_stats") or {}).get("cpu_usage") or {}
                self.cpu_seconds = max(self.cpu_seconds, cpu.get("total_usage", 0) / 1e9)
