"""The audit says what was not checked, and what images are made of is named by its content."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.audit.__main__ import show_vulnerabilities
from deploy.audit.vulnerabilities import Findings, find_vulnerabilities, read_report

ROOT = Path(__file__).parents[2]
VULNERABLE = {"name": "old", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}
SOUND = {"name": "new", "version": "2", "vulns": []}
SKIPPED = {"name": "own", "skip_reason": "not found on PyPI"}


def test_a_known_vulnerability_is_named_with_its_fix() -> None:
    found = read_report({"dependencies": [VULNERABLE, SOUND]})
    assert show_vulnerabilities(found, required=False) == ["old 1: PYSEC-1, fixed in 2"]


def test_what_was_not_checked_is_not_an_all_clear(capsys: pytest.CaptureFixture[str]) -> None:
    found = read_report({"dependencies": [SKIPPED]})
    assert show_vulnerabilities(found, required=False) == []
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "vulnerabilities: not checked: vulnerability data not reachable (not found on PyPI)"


@pytest.mark.parametrize("dependencies", [[SKIPPED], [SKIPPED, SOUND]])
def test_who_requires_the_check_fails_without_it(dependencies: list[dict[str, object]]) -> None:
    (fault,) = show_vulnerabilities(read_report({"dependencies": dependencies}), required=True)
    assert "not checked" in fault


def test_an_audit_that_breaks_has_checked_nothing(tmp_path: Path) -> None:
    found = find_vulnerabilities(ROOT / ".venv-audit/bin/python", tmp_path / "no-such-file.txt")
    assert (found.checked, list(found.skipped)) == (0, ["all packages"])
    assert show_vulnerabilities(found, required=True)


def test_without_a_finding_all_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_vulnerabilities(Findings(checked=3), required=True) == []
    assert capsys.readouterr().out == "vulnerabilities: 3 packages checked, none known\n"


def test_images_are_built_of_and_run_from_what_a_digest_names() -> None:
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text()
    for name, default in re.findall(r"^ARG (\w+)=(\S+)", dockerfile, re.MULTILINE):
        dockerfile = dockerfile.replace(f"${{{name}}}", default)
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?", dockerfile, re.MULTILINE)
    own = {name for _, name in stages}
    images = [image for image, _ in stages if image not in own]
    images += re.findall(r"^ +image: (?!piecework-)(\S+)", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE)
    assert len(images) >= 2
    assert [image for image in images if not re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", image)] == []


def test_the_bill_of_materials_names_each_package_of_this_environment(tmp_path: Path) -> None:
    """By the command that `make sbom` and the image's build use."""
    bill = tmp_path / "sbom.cdx.json"
    program = ROOT / ".venv-audit/bin/cyclonedx-py"
    subprocess.run(
        [program, "environment", "--output-reproducible", "--no-validate", "-o", bill, sys.executable], check=True
    )
    made = json.loads(bill.read_text())
    assert made["bomFormat"] == "CycloneDX"
    duckdb = next(component for component in made["components"] if component["name"] == "duckdb")
    assert duckdb["purl"].startswith("pkg:pypi/duckdb@") and duckdb["licenses"]
