"""The objects that processors declare in addition to a task's input: each worker fetches them once for all its tasks.

All tasks of a job see the same version of an object, even if it changes meanwhile. The first worker that needs it pins
its ETag in an object of the job's, which only one worker can create. Later workers fetch exactly that version; if it is
gone, their tasks fail with that reason.
"""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID

import structlog

from services.contract.layout import Layout
from services.contract.location import Location
from services.contract.task_error import TaskError
from services.platform.s3_faults import S3_ERRORS
from services.platform.threads import beside_loop, in_own_thread
from services.platform.transfer import download, input_error
from services.worker.task.once import Once
from services.worker.task.pins import Pins
from services.worker.task.scratch import remove_tree
from services.worker.task.sealed import Facts, facts_of

log = structlog.get_logger()

_PINS_MAX = 10_000
_TRIES = 3


class _Version(NamedTuple):
    uri: str
    etag: str


@dataclass(frozen=True, slots=True, eq=False)
class _Fetched:
    path: Path
    facts: Facts


class DeclaredInputs:
    """A cache on disk of at most `bytes_max` bytes, not counting files in use. The least recently used go first.

    A file that somebody has changed since it was fetched is fetched again.
    """

    def __init__(self, s3: Any, layout: Layout, directory: Path, bytes_max: int) -> None:
        self._s3 = s3
        self._agreed = Pins(s3, layout)
        self._directory = directory
        self._bytes_max = bytes_max
        self._pins = Once(self._pin, _PINS_MAX)
        self._files = Once(self._fetch)
        self._current: dict[_Version, _Fetched] = {}
        self._count = 0  # of fetches: each has a directory of its own
        self._holders: Counter[_Version] = Counter()
        self._sizes: dict[_Version, int] = {}  # sizes of the cached files, least recently used first

    @asynccontextmanager
    async def holding(self, job_id: UUID, inputs: Mapping[str, str]) -> AsyncIterator[dict[str, Path]]:
        """The inputs' files by name. They exist until the context ends, and are read-only.

        Raises TaskError (input_missing, input_changed, input_forbidden, input_unavailable) and OSError.
        """
        held: list[_Version] = []
        paths: dict[str, Path] = {}
        try:
            for name, uri in inputs.items():
                version = _Version(uri, await self._pins.get((job_id, uri)))
                self._holders[version] += 1
                held.append(version)
                paths[name] = (await self._unchanged(version)).path
                self._sizes[version] = self._sizes.pop(version)
            yield paths
        finally:
            self._holders.subtract(held)
            await self._evict()

    async def close(self) -> None:
        await self._pins.close()
        await self._files.close()

    async def _pin(self, key: tuple[UUID, str]) -> str:
        """The ETag of the version that the job uses: the one that the first worker pinned."""
        job_id, uri = key
        source = Location.parse(uri)

        async def find() -> str:
            try:
                return str((await self._s3.head_object(Bucket=source.bucket, Key=source.key))["ETag"])
            except S3_ERRORS as error:
                raise input_error(source, None, error) from None

        return await self._agreed.agree(job_id, uri, find)

    async def _unchanged(self, version: _Version) -> _Fetched:
        """Raises TaskError."""
        for _ in range(_TRIES):
            fetched = await self._files.get(version)
            if await beside_loop(_is_unchanged, fetched):
                return fetched
            if self._current.get(version) is fetched:  # otherwise another task has found it, and fetches it again
                log.error("declared input changed: it is fetched again", uri=version.uri)
                del self._current[version]
                self._sizes.pop(version, None)
                self._files.forget(version)
                await in_own_thread(remove_tree, fetched.path.parent)
        message = f"the worker's copy of {version.uri} changes while tasks use it; tasks may not write to their inputs"
        raise TaskError("input_changed", message)

    async def _fetch(self, version: _Version) -> _Fetched:
        self._count += 1
        directory, source = self._directory / f"{self._count}", Location.parse(version.uri)
        directory.mkdir(parents=True)
        name = PurePosixPath(source.key).name
        path = directory / (name if name not in ("", "..") else "input")
        try:
            with path.open("xb") as file:
                self._sizes[version] = await download(self._s3, source, file, etag=version.etag)
            path.chmod(0o444)
            directory.chmod(0o755)
        except BaseException:
            remove_tree(directory)
            raise
        self._current[version] = _Fetched(path, facts_of(path))
        return self._current[version]

    async def _evict(self) -> None:
        self._holders = +self._holders
        for version in [version for version in self._sizes if version not in self._holders]:
            if sum(self._sizes.values()) <= self._bytes_max:
                return
            if version not in self._sizes or self._holders[version] > 0:
                continue  # since the last removal
            del self._sizes[version]
            self._files.forget(version)
            await in_own_thread(remove_tree, self._current.pop(version).path.parent)


def _is_unchanged(fetched: _Fetched) -> bool:
    with suppress(OSError):
        return facts_of(fetched.path) == fetched.facts
    return False
