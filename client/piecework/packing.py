"""A directory of code as a zip archive that depends on nothing but its files: not on times, owners, or their order."""

import hashlib
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from piecework.errors import InputError

BYTES_MAX = 268_435_456

_CACHES = ("__pycache__", "node_modules")
_TIME = (1980, 1, 1, 0, 0, 0)  # the first that zip knows


@dataclass(frozen=True, slots=True)
class Archive:
    """A packed directory."""

    path: Path
    sha256: str
    bytes: int


@contextmanager
def packed(directory: Path) -> Iterator[Archive]:
    """The directory's archive, which is there until the context ends. Raises InputError."""
    with tempfile.TemporaryDirectory(prefix="piecework-") as temporary:
        path = Path(temporary) / "package.zip"
        _write(directory, path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        yield Archive(path, sha256, path.stat().st_size)


def _write(directory: Path, path: Path) -> None:
    """Stored, not compressed: how bytes are compressed differs from machine to machine."""
    name, total = directory.resolve().name, 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in _files_in(directory):
            total += file.stat().st_size
            if total > BYTES_MAX - 1_048_576:  # zip needs some itself
                raise InputError(
                    f"{directory}: more than {BYTES_MAX:,} bytes; a package is code, keep data out of it: give large "
                    "files to the tasks as `inputs` of the processor"
                )
            entry = zipfile.ZipInfo(f"{name}/{file.relative_to(directory).as_posix()}", _TIME)
            entry.external_attr = (0o100755 if file.stat().st_mode & 0o100 else 0o100644) << 16
            archive.writestr(entry, file.read_bytes())


def _files_in(directory: Path) -> list[Path]:
    """The files that are code: nothing hidden, nothing that was made of the others."""
    if not directory.is_dir():
        raise InputError(f"{directory}: there is no such directory")
    files = sorted(path for path in directory.rglob("*") if path.is_file() and _is_code(path.relative_to(directory)))
    if not files:
        raise InputError(f"{directory}: there is no file in it")
    return files


def _is_code(path: Path) -> bool:
    return path.suffix != ".pyc" and not any(part.startswith(".") or part in _CACHES for part in path.parts)
