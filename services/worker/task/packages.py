"""Packages of code, prepared once per node: fetched, verified, unpacked, their requirements installed.

A package is stored by the hash of its content in the node's cache directory, for all workers and their tasks. It stays
while any of them uses it, and then until there are too many packages:

{cache}/{sha256}/code     the pushed directory, under its own name
    {cache}/{sha256}/venv     a virtual environment with its requirements.txt, if it has one
{cache}/{sha256}/ready    exists once the rest is complete; touched by each use
    {cache}/{sha256}.lock     shared lock while in use; exclusive lock to make or remove the package
"""

import asyncio
import fcntl
import hashlib
import lzma
import os
import shutil
import stat
import sys
import sysconfig
import time
import zipfile
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from services.contract.layout import Layout
from services.contract.task_error import TaskError
from services.platform.transfer import download
from services.worker.child.job import ProgramJob
from services.worker.child.last_words import shown_lines
from services.worker.isolation.cells import Cells
from services.worker.isolation.reach import Reach
from services.worker.task.child_process import ChildProcess
from services.worker.task.environment import installing_environment
from services.worker.task.once import Once
from services.worker.task.scratch import ScratchUnusable, remove_tree

_BYTES_MAX = 2 << 30  # unpacked
_FILES_MAX = 100_000
_AGAIN_SECONDS = 60.0  # pause before a failed package is tried again
_INSTALL_SECONDS = 1800.0
_LOCK_SECONDS = 0.1
_LINES_SHOWN = 12
_INSTALLER_SETTINGS = ("/etc/pip.conf", "/etc/uv", "/etc/xdg/pip", "/etc/xdg/uv")
_INSTALLER_PATHS = ("PIP_CONFIG_FILE", "PIP_CERT", "PIP_FIND_LINKS", "UV_CONFIG_FILE", "UV_FIND_LINKS", "SSL_CERT_FILE")

# Errors of zipfile for an unreadable archive, and of a name that is both a file and a directory.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError)
_DAMAGED = (*_UNREADABLE, FileExistsError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a processor's children need to start: an interpreter, and the environment of the tasks."""

    python: str
    environment: Mapping[str, str]
    package: Path | None = None
    home: Path | None = None  # of all that belongs to the package


class Packages:
    """Keeps packages ready, at most `count_max` of them, and prepares missing ones.

    `own` is the runtime of code without a package.
    """

    def __init__(
        self, s3: Any, layout: Layout, cache: Path, count_max: int, environment: Mapping[str, str], cells: Cells
    ) -> None:
        self.own = Runtime(sys.executable, environment)
        self._s3 = s3
        self._layout = layout
        self._cache = cache
        self._count_max = count_max
        self._cells = cells
        self._making = Once(self._make)
        self._failures: dict[str, tuple[float, TaskError]] = {}

    @asynccontextmanager
    async def holding(self, sha256: str | None) -> AsyncIterator[Runtime]:
        """A package that stays in place until the context ends.

        Raises TaskError (processor_load) with the installer's message, and for a while without another try.
        """
        if sha256 is None:
            yield self.own
            return
        home = self._cache / sha256
        while True:
            self._raise_failure(sha256)
            async with _locked(self._cache, sha256, fcntl.LOCK_SH):
                if (home / "ready").exists():
                    _stamp(home / "ready")
                    yield self._runtime(home)
                    return
            await self._making.get(sha256)

    async def close(self) -> None:
        await self._making.close()

    def _raise_failure(self, sha256: str) -> None:
        failed_at, failure = self._failures.get(sha256, (0.0, None))
        if failure is not None and time.monotonic() < failed_at + _AGAIN_SECONDS:
            raise failure

    async def _make(self, sha256: str) -> None:
        home = self._cache / sha256
        try:
            async with asyncio.timeout(_INSTALL_SECONDS), _locked(self._cache, sha256, fcntl.LOCK_EX):
                if not (home / "ready").exists():
                    await asyncio.to_thread(remove_tree, home)
                    home.mkdir()
                    await self._fill(home, sha256)
                    _stamp(home / "ready")
        except TimeoutError:
            raise self._failed(sha256, f"was not ready within {_INSTALL_SECONDS:g} seconds") from None
        except TaskError as error:
            raise self._failed(sha256, error.message) from None
        finally:
            self._making.forget(sha256)  # between the locks it may be removed, and made again
        await asyncio.to_thread(_remove_oldest, self._cache, self._count_max)

    def _failed(self, sha256: str, message: str) -> TaskError:
        error = TaskError("processor_load", f"package {sha256[:12]}…: {message}")
        self._failures[sha256] = time.monotonic(), error
        return error

    async def _fill(self, home: Path, sha256: str) -> None:
        archive = home / "package.zip"
        with archive.open("wb") as file:
            await download(self._s3, self._layout.package(sha256), file)
        await asyncio.to_thread(_unpack, archive, sha256, home / "code")
        await asyncio.to_thread(_open_to_tasks, home)
        if (_pushed(home) / "requirements.txt").exists():
            (home / "venv").mkdir()
            for command in _install_commands(home / "venv"):
                await self._run(command, home)
            await asyncio.to_thread(_open_to_tasks, home)

    async def _run(self, command: Sequence[str], home: Path) -> None:
        """Run a program in the package's directory: it may write the package's environment, and use the network.

        Raises TaskError with its last lines of output.
        """
        installing = home / "install"
        await asyncio.to_thread(remove_tree, installing)
        installing.mkdir()
        log = installing / "log.txt"
        environment = installing_environment(self.own.environment)
        reach = Reach(readable=(home, *_installers(self.own.environment)), writable=(home / "venv", installing))
        child = await ChildProcess.start(self._cells, environment, self.own.python, reach)
        job: ProgramJob = {
            "kind": "program",
            "arguments": list(command),
            "directory": str(_pushed(home)),
            "environment": {**environment, "TMPDIR": str(child.cell.tmp)},
            "log": str(log),
        }
        try:
            answer = await child.run(job)
        finally:
            await child.kill()
        if "error" in answer:
            lines = list(filter(None, shown_lines(log.read_bytes())))
            said = "\n".join(lines[-_LINES_SHOWN:]) or answer["error"]["message"]
            raise TaskError("processor_load", f"its requirements can't be installed:\n{said}")

    def _runtime(self, home: Path) -> Runtime:
        """The runtime of a package. Its modules come first, then its requirements, then the worker's own modules.

        A module `m` of the package `p` can be imported as `m` and as `p.m`.
        """
        environment, package, venv = dict(self.own.environment), _pushed(home), home / "venv"
        path = [str(package), str(package.parent), environment.get("PYTHONPATH")]
        environment["PYTHONPATH"] = ":".join(filter(None, path))
        if not venv.exists():
            return Runtime(self.own.python, environment, package, home)
        environment["VIRTUAL_ENV"] = str(venv)
        environment["PATH"] = f"{venv / 'bin'}:{environment.get('PATH', os.defpath)}"
        return Runtime(str(venv / "bin" / "python"), environment, package, home)


def _pushed(home: Path) -> Path:
    """The directory that was pushed."""
    found = list((home / "code").iterdir())
    return found[0] if len(found) == 1 and found[0].is_dir() else home / "code"


def _open_to_tasks(home: Path) -> None:
    """Let all users read the package: tasks run as others than the worker does."""
    home.chmod(0o755)
    for _, directories, files, descriptor in os.fwalk(home):
        for name in (*directories, *files):
            mode = os.lstat(name, dir_fd=descriptor).st_mode  # below a descriptor
            needed = 0o555 if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else 0o444
            if not stat.S_ISLNK(mode):
                os.chmod(name, stat.S_IMODE(mode) | needed, dir_fd=descriptor)


def _installers(environment: Mapping[str, str]) -> list[Path]:
    """Where the installers' settings and certificates are, which other tasks have no need to read."""
    named = (environment.get(name, "") for name in _INSTALLER_PATHS)
    places = [Path(path) for path in (*named, *_INSTALLER_SETTINGS) if path.startswith("/")]
    return [path for path in places if path.exists()]


def _install_commands(venv: Path) -> list[list[str]]:
    """Install with uv if this interpreter's environment has it, else with the standard library's venv and pip."""
    python, beside = str(venv / "bin" / "python"), sysconfig.get_path("scripts")
    install = ["install", "--quiet", "--require-hashes", "-r", "requirements.txt"]
    if uv := shutil.which("uv", path=f"{beside}:{os.environ.get('PATH', os.defpath)}"):
        return [
            [uv, "venv", "--quiet", "--python", sys.executable, str(venv)],
            [uv, "pip", *install, "--python", python],
        ]
    return [
        [sys.executable, "-m", "venv", str(venv)],
        [python, "-m", "pip", "--disable-pip-version-check", *install],
    ]


def _unpack(archive: Path, sha256: str, target: Path) -> None:
    """Raises TaskError unless the archive has the right hash and is harmless."""
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise TaskError("processor_load", f"the object's SHA-256 is {found}")
    try:
        with zipfile.ZipFile(archive) as package:
            entries = package.infolist()
            if len(entries) > _FILES_MAX or sum(entry.file_size for entry in entries) > _BYTES_MAX:
                raise TaskError("processor_load", f"more than {_FILES_MAX} files or {_BYTES_MAX} bytes are in it")
            target.mkdir()
            for entry in entries:
                _extract(package, entry, target)
    except _DAMAGED as error:
        raise TaskError("processor_load", f"it can't be unpacked: {error}") from None
    archive.unlink()


def _extract(package: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    mode, name = entry.external_attr >> 16, PurePosixPath(entry.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in entry.filename:
        raise TaskError("processor_load", f"its file name {entry.filename!r} leads out of the archive")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise TaskError("processor_load", f"{entry.filename!r} in it is not a regular file")
    path = target / name
    if entry.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with package.open(entry) as source, path.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    path.chmod(mode & 0o755 | 0o600)


@asynccontextmanager
async def _locked(cache: Path, sha256: str, kind: int) -> AsyncIterator[None]:
    """Hold a package's lock, shared or exclusive as `kind` says (`flock`), across all workers of the node."""
    with (cache / f"{sha256}.lock").open("a") as file:
        while not _lock(file, kind):  # noqa: ASYNC110 (another process holds it)
            await asyncio.sleep(_LOCK_SECONDS)
        yield


def _lock(file: IO[Any], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stamp(ready: Path) -> None:
    """Mark a package as used now. Sets the time explicitly: the file system's own clock is too coarse."""
    ready.touch()
    os.utime(ready, ns=(time.time_ns(), time.time_ns()))


def _remove_oldest(cache: Path, count_max: int) -> None:
    """Remove the least recently used packages, except those in use, until `count_max` are left."""
    used: list[tuple[int, Path]] = []
    for ready in cache.glob("*/ready"):
        with suppress(FileNotFoundError):  # another worker has just removed it
            used.append((ready.stat().st_mtime_ns, ready))
    for _, ready in sorted(used)[:-count_max]:
        with (cache / f"{ready.parent.name}.lock").open("a") as file:
            if _lock(file, fcntl.LOCK_EX):
                ready.unlink(missing_ok=True)  # first: a partly removed package is not ready
                remove_tree(ready.parent)


def cache_directory(path: Path) -> Path:
    """Make the directory. Nobody else may write to it, since its code is run. Raises ScratchUnusable."""
    try:
        path.mkdir(mode=0o711, parents=True, exist_ok=True)
        path.chmod(path.stat().st_mode | 0o011)  # isolated tasks may pass, and not look around
        found = path.stat()
    except OSError as error:
        raise ScratchUnusable(f"can't use the directory in PIECEWORK_CACHE: {error}") from None
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ScratchUnusable(f"can't use the directory in PIECEWORK_CACHE: others may write to {path}")
    return path.resolve()
