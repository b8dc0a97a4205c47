"""A directory of code as a zip archive that depends on nothing but its files: not on times, owners, or their order."""

import hashlib
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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
def packed(code: Path | Mapping[str, Path | bytes]) -> Iterator[Archive]:
    """The archive of a directory, or of files by their paths in it; there until the context ends. Raises InputError."""
    named, name = (code, "package") if isinstance(code, Mapping) else (files_of(code), code.resolve().name)
    with tempfile.TemporaryDirectory(prefix="piecework-") as temporary:
        _check_requirements(name, named.get("requirements.txt"))
        path = Path(temporary) / "package.zip"
        _write(name, named, path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        yield Archive(path, sha256, path.stat().st_size)


def _check_requirements(name: str, file: Path | bytes | None) -> None:
    """Raises InputError for the first requirement without a hash, which pip would refuse on the workers."""
    content = b"" if file is None else file if isinstance(file, bytes) else file.read_bytes()
    lines = re.sub(r"\\\r?\n", " ", content.decode(errors="replace")).splitlines()
    for line in lines:
        requirement = re.sub(r"(^|\s)#.*", "", line).strip()
        if requirement and not requirement.startswith("-") and "--hash=" not in requirement:
            raise InputError(
                f"{name}/requirements.txt: {requirement!r} has no hash, so workers would not install it; write the "
                "file by `uv pip compile --generate-hashes requirements.in -o requirements.txt`"
            )


def _write(name: str, named: Mapping[str, Path | bytes], path: Path) -> None:
    """Stored, not compressed: how bytes are compressed differs from machine to machine."""
    total = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for inside, file in sorted(named.items(), key=lambda item: PurePosixPath(item[0])):
            total += len(file) if isinstance(file, bytes) else file.stat().st_size
            if total > BYTES_MAX - 1_048_576:  # zip needs some itself
                raise InputError(
                    f"{name}: more than {BYTES_MAX:,} bytes; a package is code, keep data out of it: give large "
                    "files to the tasks as `inputs` of the processor"
                )
            entry = zipfile.ZipInfo(f"{name}/{inside}", _TIME)
            runs = isinstance(file, Path) and file.stat().st_mode & 0o100
            entry.external_attr = (0o100755 if runs else 0o100644) << 16
            archive.writestr(entry, file if isinstance(file, bytes) else file.read_bytes())


def files_of(directory: Path) -> dict[str, Path]:
    """The directory's files that are code, by their paths in it: nothing hidden, nothing that was made of the others.

    Raises InputError.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: there is no such directory")
    files = (path for path in directory.rglob("*") if path.is_file() and _is_code(path.relative_to(directory)))
    named = {path.relative_to(directory).as_posix(): path for path in files}
    if not named:
        raise InputError(f"{directory}: there is no file in it")
    return named


def _is_code(path: Path) -> bool:
    return path.suffix != ".pyc" and not any(part.startswith(".") or part in _CACHES for part in path.parts)
