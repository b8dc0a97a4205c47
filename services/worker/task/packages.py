"""Packages of code, prepared once per node: fetched, verified, unpacked, their requirements installed.

A package is stored by the hash of its content in the node's cache directory, for all workers and their tasks. It stays
while any of them uses it, and then until there are too many packages:

{cache}/{sha256}/code     the pushed directory, under its own name
    {cache}/{sha256}/venv     a virtual environment with its requirements.txt, if it has one
{cache}/{sha256}/seal     the seal of these two, which are read-only
{cache}/{sha256}/ready    exists once the rest is complete; touched by each use
    {cache}/{sha256}.lock     shared lock while in use; exclusive lock to make or remove the package

A package is checked when a worker first uses it, and before a child starts from it. One that was changed is made again.
"""

import asyncio
import fcntl
import hashlib
import hmac
import lzma
import os
import shutil
import stat
import sys
import sysconfig
import time
import zipfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

import structlog

from services.contract.layout import Layout
from services.contract.task_error import TaskError
from services.platform.threads import beside_loop, in_own_thread
from services.platform.transfer import download, object_bytes
from services.worker.child.job import ProgramJob
from services.worker.child.last_words import shown_lines
from services.worker.isolation.cells import Cells
from services.worker.isolation.view import View
from services.worker.task.child_process import ChildProcess
from services.worker.task.environment import installing_environment
from services.worker.task.once import Once
from services.worker.task.scratch import ScratchUnusable, open_lock, remove_tree
from services.worker.task.sealed import NotSealable, Sealed, make_read_only, read_sealed
from services.worker.task.user_files import UserFiles

log = structlog.get_logger()

_BYTES_MAX = 2 << 30  # unpacked
_FILES_MAX = 100_000
_AGAIN_SECONDS = 60.0  # pause before a failed package is tried again
_INSTALL_SECONDS = 1800.0
_LOCK_SECONDS = 0.1
_LINES_SHOWN = 12
_INSTALLER_SETTINGS = ("/etc/pip.conf", "/etc/uv", "/etc/xdg/pip", "/etc/xdg/uv")
_INSTALLER_PATHS = ("PIP_CONFIG_FILE", "PIP_CERT", "PIP_FIND_LINKS", "UV_CONFIG_FILE", "UV_FIND_LINKS", "SSL_CERT_FILE")
_READ_BYTES = 1 << 20
_DIRECTORY_BYTES_MAX = 64 << 20  # of an archive
_CHECK_SECONDS = 10.0  # for as long a package that was found whole is not looked at again, unless a child starts
_COMPILE = "import compileall, sys; compileall.compile_dir(sys.argv[1], quiet=2)"

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
    check: Callable[[], Awaitable[None]] | None = None  # raises PackageChanged; before a child starts from it


class PackageChanged(Exception):
    """Somebody has changed the files of a package since they were unpacked: it is made again for its next use."""


@dataclass(frozen=True, slots=True)
class _Check:
    """When a package was last found to be as it was made."""

    at: float
    sealed: Sealed


class Packages:
    """Keeps packages ready, at most `count_max` of them, and prepares missing ones.

    `own` is the runtime of code without a package. `seal_key` is a secret that all workers of the node share.
    """

    def __init__(
        self,
        s3: Any,
        layout: Layout,
        cache: Path,
        count_max: int,
        environment: Mapping[str, str],
        cells: Cells,
        *,
        seal_key: bytes,
    ) -> None:
        self.own = Runtime(sys.executable, environment)
        self._seal_key = seal_key
        self._checks: dict[str, _Check] = {}
        self._changed_at: dict[str, float] = {}
        self._s3 = s3
        self._layout = layout
        self._cache = cache
        self._count_max = count_max
        self._cells = cells
        self._making = Once(self._make)
        self._reading = Once(self._read)
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
                if (home / "ready").exists() and await self._is_whole(home, _CHECK_SECONDS):
                    _stamp(home / "ready")
                    yield self._runtime(home)
                    return
            await self._making.get(sha256)

    async def _check(self, home: Path) -> None:
        """Raises PackageChanged."""
        if not await self._is_whole(home):
            raise PackageChanged(f"package {home.name[:12]}…: its files were changed since they were unpacked")

    async def _is_whole(self, home: Path, seconds: float = 0.0) -> bool:
        """Whether the package is as it was made; what was found within the last `seconds` still counts."""
        known = self._checks.get(home.name)
        if known and time.monotonic() < known.at + seconds:
            return True
        changed = await in_own_thread(known.sealed.find_change) if known else str(home)
        if known and changed is None:
            self._checks[home.name] = _Check(time.monotonic(), known.sealed)
            return True
        self._checks.pop(home.name, None)
        sealed = await self._reading.get(home)  # another worker may have made it again
        if sealed is None:
            log.error("package changed: it is made again", package=home.name, found=changed)
            return False
        self._checks[home.name] = _Check(time.monotonic(), sealed)
        return True

    async def _read(self, home: Path) -> Sealed | None:
        try:
            return await in_own_thread(_read_whole, home, self._seal_key)
        finally:
            self._reading.forget(home)

    async def close(self) -> None:
        await self._making.close()
        await self._reading.close()

    def _raise_failure(self, sha256: str) -> None:
        failed_at, failure = self._failures.get(sha256, (0.0, None))
        if failure is not None and time.monotonic() < failed_at + _AGAIN_SECONDS:
            raise failure

    async def _make(self, sha256: str) -> None:
        home = self._cache / sha256
        try:
            async with asyncio.timeout(_INSTALL_SECONDS), _locked(self._cache, sha256, fcntl.LOCK_EX):
                was_made = (home / "ready").exists()
                if not (was_made and await self._is_whole(home)):
                    self._count_change(sha256, was_made)
                    await in_own_thread(remove_tree, home)
                    home.mkdir()
                    await self._fill(home, sha256)
                    sealed = await in_own_thread(_seal, home, self._seal_key)
                    self._checks[sha256] = _Check(time.monotonic(), sealed)
                    _stamp(home / "ready")
        except TimeoutError:
            raise self._failed(sha256, f"was not ready within {_INSTALL_SECONDS:g} seconds") from None
        except TaskError as error:
            raise self._failed(sha256, error.message) from None
        finally:
            self._making.forget(sha256)  # between the locks it may be removed, and made again
        await in_own_thread(_remove_oldest, self._cache, self._count_max)

    def _count_change(self, sha256: str, was_made: bool) -> None:
        """Raises TaskError if a package has changed twice in a short time: it would never stay whole."""
        now, before = time.monotonic(), self._changed_at.get(sha256)
        if not was_made:
            return
        self._changed_at[sha256] = now
        if before is not None and now < before + _AGAIN_SECONDS:
            message = "its files change while tasks use it; tasks may write to their directory and to TMPDIR only"
            raise TaskError("processor_load", message)

    def _failed(self, sha256: str, message: str) -> TaskError:
        error = TaskError("processor_load", f"package {sha256[:12]}…: {message}")
        self._failures[sha256] = time.monotonic(), error
        return error

    async def _fill(self, home: Path, sha256: str) -> None:
        archive, source = home / "package.zip", self._layout.package(sha256)
        size = await object_bytes(self._s3, source, None)
        if size > _BYTES_MAX:
            raise TaskError("processor_load", f"it has {size} bytes, at most {_BYTES_MAX} are allowed")
        with archive.open("wb") as file:
            await download(self._s3, source, file, end=size)
        await in_own_thread(_unpack, archive, sha256, home / "code")
        await asyncio.to_thread(_open_to_tasks, home)
        python = self.own.python
        if (_pushed(home) / "requirements.txt").exists():
            (home / "venv").mkdir()
            for command in _install_commands(home / "venv"):
                await self._run(command, home)
            python = str(home / "venv" / "bin" / "python")
        if any((home / "code").rglob("*.py")):  # now: children can't keep what they compile
            await self._run([python, "-c", _COMPILE, str(home / "code")], home)

    async def _run(self, command: Sequence[str], home: Path) -> None:
        """Run a program in the package's directory: it may write the package, and use the network.

        Raises TaskError with its last lines of output.
        """
        installing = home / "install"
        await in_own_thread(remove_tree, installing)
        installing.mkdir()
        printed = installing / "log.txt"
        environment = installing_environment(self.own.environment)
        written = (installing, *(place for place in (home / "code", home / "venv") if place.exists()))
        view = View(readable=(home, *_installers(self.own.environment)), writable=written)
        child = await ChildProcess.start(self._cells, environment, self.own.python, view)
        job: ProgramJob = {
            "kind": "program",
            "arguments": list(command),
            "directory": str(_pushed(home)),
            "environment": {**environment, "TMPDIR": str(child.cell.tmp)},
            "log": str(printed),
        }
        try:
            answer = await child.run(job)
        finally:
            await child.kill()
        if "error" in answer:
            lines = list(filter(None, shown_lines(await beside_loop(_read_end, printed))))
            said = "\n".join(lines[-_LINES_SHOWN:]) or answer["error"]["message"]
            raise TaskError("processor_load", f"its requirements can't be installed:\n{said}")

    def _runtime(self, home: Path) -> Runtime:
        """The runtime of a package. Its modules come first, then its requirements, then the worker's own modules.

        A module `m` of the package `p` can be imported as `m` and as `p.m`.
        """
        environment, package, venv = dict(self.own.environment), _pushed(home), home / "venv"
        path = [str(package), str(package.parent), environment.get("PYTHONPATH")]
        environment["PYTHONPATH"] = ":".join(filter(None, path))
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # root could, and would change the package
        check = partial(self._check, home)
        if not venv.exists():
            return Runtime(self.own.python, environment, package, home, check)
        environment["VIRTUAL_ENV"] = str(venv)
        environment["PATH"] = f"{venv / 'bin'}:{environment.get('PATH', os.defpath)}"
        return Runtime(str(venv / "bin" / "python"), environment, package, home, check)


def _seal(home: Path, key: bytes) -> Sealed:
    """Close a complete package. Raises TaskError."""
    home.chmod(0o755)
    remove_tree(home / "install")
    (home / "package.zip").unlink(missing_ok=True)
    try:
        make_read_only(home / "code", home / "venv")
        sealed = read_sealed(key, home / "code", home / "venv")
        (home / "seal").write_text(sealed.seal)
        return sealed
    except NotSealable as error:
        raise TaskError("processor_load", f"{error}") from None


def _read_whole(home: Path, key: bytes) -> Sealed | None:
    """The package as it is; None unless its seal is right."""
    try:
        sealed = read_sealed(key, home / "code", home / "venv")
        stored = _read_end(home / "seal")
    except (OSError, NotSealable, TaskError):
        return None
    return sealed if hmac.compare_digest(sealed.seal.encode(), stored) else None


def _read_end(path: Path) -> bytes:
    """The end of a file that code of a package may have replaced; empty if there is none. Raises TaskError."""
    files = UserFiles(path.parent)
    try:
        file = files.open(path)
        if file is None:
            return b""
        with file:
            return os.pread(file.fileno(), _READ_BYTES, max(0, os.fstat(file.fileno()).st_size - _READ_BYTES))
    finally:
        files.close()


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
    alone = ["--link-mode", "copy", "--compile-bytecode"]  # not linked to uv's cache, which tasks may write to
    if uv := shutil.which("uv", path=f"{beside}:{os.environ.get('PATH', os.defpath)}"):
        return [
            [uv, "venv", "--quiet", "--python", sys.executable, str(venv)],
            [uv, "pip", *install, *alone, "--python", python],
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
        _check_directory(archive)
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


def _check_directory(archive: Path) -> None:
    """Count an archive's entries, as `zipfile` reads them into memory all at once. Raises TaskError and BadZipFile.

    The end of the directory (PKWARE's APPNOTE.TXT, 4.3.12 to 4.3.16) says how long it is; its count may lie.
    """
    with archive.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        begin = max(0, size - 65_557)
        file.seek(begin)
        tail = file.read()
        at = tail.rfind(b"PK\5\6")
        if at < 0 or len(tail) < at + 22:
            raise zipfile.BadZipFile("File is not a zip file")
        length, end = int.from_bytes(tail[at + 12 : at + 16], "little"), begin + at
        if length == 0xFFFFFFFF or tail[at - 20 : at - 16] == b"PK\6\7":  # ZIP64: one more record is before the two
            end -= 76
            file.seek(max(0, end))
            length = int.from_bytes(file.read(56)[40:48], "little")
        file.seek(max(0, end - length))
        count = 0
        while (head := file.read(46))[:4] == b"PK\1\2":
            count += 1
            if count > _FILES_MAX:
                raise TaskError("processor_load", f"more than {_FILES_MAX} files are in it")
            lengths = (int.from_bytes(head[place : place + 2], "little") for place in (28, 30, 32))
            file.seek(sum(lengths), os.SEEK_CUR)
        if length > _DIRECTORY_BYTES_MAX:
            raise TaskError("processor_load", f"its directory has {length} bytes")


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
    with open_lock(cache / f"{sha256}.lock") as file:
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
        with open_lock(cache / f"{ready.parent.name}.lock") as file:
            if _lock(file, fcntl.LOCK_EX):
                ready.unlink(missing_ok=True)  # first: a partly removed package is not ready
                remove_tree(ready.parent)


def cache_directory(path: Path) -> Path:
    """Make the directory. Nobody else may write to it, since its code is run. Raises ScratchUnusable."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        found = path.stat()
        if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) in (0o700, 0o750, 0o755):
            path.chmod(0o711)  # tasks of other users reach the packages that they know, and see no others
    except OSError as error:
        raise ScratchUnusable(f"can't use the directory in PIECEWORK_CACHE: {error}") from None
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ScratchUnusable(f"can't use the directory in PIECEWORK_CACHE: others may write to {path}")
    return path.resolve()
