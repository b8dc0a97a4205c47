"""The images of tasks' containers: each is pulled once a node, and removed when others need its space.

A tag is looked up once a job: the first worker that needs it pins what it names, so that all tasks of a job run the
same image. Of the images on a node, only those that a worker has pulled are ever removed.
"""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import aiodocker
import aiohttp
import structlog
from aiodocker.exceptions import DockerError

from services.contract.task_error import TaskError
from services.worker.task.once import Once
from services.worker.task.pins import Pins
from services.worker.task.registries import Registries

log = structlog.get_logger()

_SILENT_SECONDS = 120.0  # a pull that tells of no progress for so long has failed
_TELL_SECONDS = 10.0
_ASK_SECONDS = 60.0
_KNOWN_MAX = 10_000
_ID = re.compile(r"sha256:[0-9a-f]{64}")
_NOT_FOUND = ("manifest unknown", "not found", "does not exist", "no matching manifest", "invalid reference format")


class Images:
    """A node's. `marks` is a directory with a file for each pulled image; it was last used when the file changed.

    `digests_for_all`: the engine gives an image digests of a registry even if it was made on this node, as Podman does.
    """

    def __init__(
        self,
        docker: aiodocker.Docker,
        pins: Pins,
        registries: Registries,
        marks: Path,
        bytes_max: int,
        *,
        digests_for_all: bool = False,
    ) -> None:
        self._docker = docker
        self._pins = pins
        self._registries = registries
        self._marks = marks
        self._bytes_max = bytes_max
        self._digests_for_all = digests_for_all
        self._resolved = Once(self._resolve, _KNOWN_MAX)
        self._pulls = Once(self._pull)

    async def get(self, job_id: UUID, image: str) -> str:
        """The id of the image that tasks of this job run, which is on this node now.

        Raises TaskError (image_unavailable, input_unavailable).
        """
        reference = image if "@" in image else await self._resolved.get((job_id, image))
        return await self._present(reference, image)

    async def close(self) -> None:
        await self._resolved.close()
        await self._pulls.close()

    async def _resolve(self, key: tuple[UUID, str]) -> str:
        """What the tag names in this job: a reference with a digest, or the id of an image that is only here."""
        job_id, image = key
        return await self._pins.agree(job_id, f"image {image}", lambda: self._look_up(image))

    async def _look_up(self, image: str) -> str:
        here = await self._inspect(image)
        if here is not None and not here.get("RepoDigests"):
            return str(here["Id"])  # made on this node: no registry has it
        try:
            await self._pull_once(image)
        except TaskError:
            if here is None or not self._digests_for_all or self._mark(here["Id"]).exists():
                raise
            return str(here["Id"])  # nor does a registry have this one
        here = await self._inspect(image)
        if here is None:
            raise _unavailable(image, "it was removed as soon as it was pulled")
        own = [digest for digest in here.get("RepoDigests") or () if _names_same(digest, image)]
        return str(own[0] if own else here["Id"])

    async def _present(self, reference: str, image: str) -> str:
        if (here := await self._inspect(reference)) is None:
            if _ID.fullmatch(reference):
                why = "another node made it, and it is in no registry: push it to one that all nodes reach"
                raise _unavailable(image, why)
            await self._pull_once(reference)
            if (here := await self._inspect(reference)) is None:
                raise _unavailable(image, "its pull was broken off")
        with suppress(OSError):
            os.utime(self._mark(here["Id"]), ns=(time.time_ns(), time.time_ns()))  # finer than the kernel's own
        return str(here["Id"])

    async def _inspect(self, reference: str) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                return await self._docker.images.inspect(reference)
        except DockerError as error:
            if error.status == 404:
                return None
            raise _of_engine(error) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _of_engine(error) from error

    async def _pull_once(self, reference: str) -> None:
        await self._pulls.get(reference)
        self._pulls.forget(reference)  # it may be removed, and needed again

    async def _pull(self, reference: str) -> None:
        before = await self._inspect(reference)
        credentials = await self._registries.credentials(reference)
        name = self._registries.full_name(reference) if credentials else reference
        progress, began = _Progress(reference), time.monotonic()
        try:
            told: AsyncIterator[dict[str, Any]] = self._docker.images.pull(name, auth=credentials, stream=True)
            while True:
                async with asyncio.timeout(_SILENT_SECONDS):
                    line = await anext(told, None)
                if line is None:
                    break
                progress.note(line)
        except DockerError as error:
            raise _refused(reference, error, with_credentials=credentials is not None) from error
        except TimeoutError as error:
            raise _unavailable(reference, f"its pull did not get on for {_SILENT_SECONDS:.0f} s") from error
        except aiohttp.ClientError as error:
            raise _of_engine(error) from error
        here = await self._inspect(reference)
        if here is None or (before is not None and before["Id"] == here["Id"]):
            return
        log.info("image pulled", image=reference, bytes=here["Size"], seconds=round(time.monotonic() - began, 1))
        mark = self._mark(here["Id"])
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(reference)
        await self._make_room(keep=str(here["Id"]))

    def _mark(self, image_id: str) -> Path:
        return self._marks / image_id.removeprefix("sha256:")

    async def _make_room(self, keep: str) -> None:
        """Remove the least recently used, as long as the pulled ones are too large; none that a container uses."""
        sizes: dict[Path, int] = {}  # layers that images share count for each
        for mark in sorted(self._marks.iterdir(), key=lambda mark: mark.stat().st_mtime):
            if (here := await self._inspect(_id_of(mark))) is not None:
                sizes[mark] = here["Size"]
            else:  # somebody else has removed it
                mark.unlink(missing_ok=True)
        total = sum(sizes.values())
        for mark, size in sizes.items():
            if total > self._bytes_max and _id_of(mark) != keep and await self._remove(_id_of(mark)):
                mark.unlink(missing_ok=True)
                total -= size

    async def _remove(self, image_id: str) -> bool:
        """False if it is in use."""
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                await self._docker.images.delete(image_id)
        except DockerError as error:
            if error.status != 404:
                log.info("image kept", image=image_id, error=error.message)
                return False
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _of_engine(error) from error
        log.info("image removed", image=image_id)
        return True


class _Progress:
    """Tells in the log how far a pull is."""

    def __init__(self, reference: str) -> None:
        self._reference = reference
        self._layers: dict[str, tuple[int, int]] = {}  # bytes that are here, and all
        self._told_at = time.monotonic()
        log.info("pulling image", image=reference)

    def note(self, line: dict[str, Any]) -> None:
        detail = line.get("progressDetail") or {}
        if line.get("status") == "Downloading" and detail.get("total"):
            self._layers[str(line.get("id"))] = detail.get("current", 0), detail["total"]
        if time.monotonic() >= self._told_at + _TELL_SECONDS:
            self._told_at = time.monotonic()
            done, total = (sum(layer[which] for layer in self._layers.values()) for which in (0, 1))
            log.info("pulling image", image=self._reference, bytes=done, bytes_total=total)


def _id_of(mark: Path) -> str:
    return f"sha256:{mark.name}"


def _names_same(digest: str, image: str) -> bool:
    """Whether `repository@sha256:…` is of the repository that the image's name says."""
    name, _, last = image.rpartition("/")
    repository = f"{name}/{last.partition(':')[0]}" if name else last.partition(":")[0]
    return digest.partition("@")[0] in (repository, repository.removeprefix("docker.io/").removeprefix("library/"))


def _unavailable(image: str, why: str, *, retryable: bool = True) -> TaskError:
    return TaskError("image_unavailable", f"the image {image} can't be had: {why}", retryable=retryable)


def _refused(reference: str, error: DockerError, *, with_credentials: bool) -> TaskError:
    """https://distribution.github.io/distribution/spec/api/#errors; engines pass these on as text."""
    text = error.message
    said = text.lower()
    if any(word in said for word in ("unauthorized", "no basic auth", "denied", "authentication required")):
        whose = "the registry refuses the credentials of this worker" if with_credentials else "no credentials for it"
        fix = "for ECR, let the node's role pull from the repository; for others, see PIECEWORK_REGISTRIES"
        return _unavailable(reference, f"{text} ({whose}; {fix})")
    missing = error.status == 404 or any(what in said for what in _NOT_FOUND)
    return _unavailable(reference, text, retryable=not missing)


def _of_engine(error: Exception) -> TaskError:
    return TaskError("node_unfit", f"the container engine does not answer: {error!r}")
