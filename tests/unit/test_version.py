"""One version number: of the server, the client, their OpenAPI documents, and the newest section of the changelog."""

import re
import shutil
import subprocess
import sys
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

import piecework
from services.api import main as api
from services.platform.settings import ApiSettings
from services.platform.version import VERSION
from services.stats import main as stats

ROOT = Path(__file__).parents[2]


def test_the_version_is_a_release_by_semantic_versioning() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)


def test_the_client_has_the_servers_version() -> None:
    assert piecework.__version__ == VERSION, "the client in .venv is of another release: run make"


def test_the_clients_wheel_carries_version_and_licence_and_nothing_of_the_server(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "client", tmp_path / "client")
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path / "client", check=True, capture_output=True, timeout=100)

    with ZipFile(tmp_path / f"piecework-{VERSION}-py3-none-any.whl") as wheel:
        facts = f"piecework-{VERSION}.dist-info"
        assert {name.partition("/")[0] for name in wheel.namelist()} == {"piecework", facts}
        assert wheel.read(f"{facts}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        metadata = Parser().parsestr(wheel.read(f"{facts}/METADATA").decode())
    assert (metadata["Version"], metadata["License-Expression"]) == (VERSION, "Apache-2.0")


@pytest.mark.parametrize("service", [api, stats])
def test_openapi_tells_it(service: object) -> None:
    assert service.create_app(ApiSettings()).openapi()["info"]["version"] == VERSION  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", ["piecework", "services.scheduler", "services.worker"])
def test_every_command_tells_it(module: str) -> None:
    ended = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, f"piecework {VERSION}\n")


def test_the_changelog_says_what_is_new_in_it() -> None:
    sections = re.findall(r"^## \[(.+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert next(name for name in sections if name != "Unreleased") == VERSION
