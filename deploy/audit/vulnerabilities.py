"""Known vulnerabilities of the packages of a lock file, as pip-audit finds them in PyPI's data.

Where that can't be reached, or lacks a package, pip-audit skips it and reports success. Here, that is "not checked".
"""

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Findings:
    """Vulnerabilities, one a line; how many packages were checked; and why others were not, by package."""

    vulnerabilities: list[str] = field(default_factory=list)
    checked: int = 0
    skipped: dict[str, str] = field(default_factory=dict)


def find_vulnerabilities(auditor: Path, lock: Path) -> Findings:
    """`auditor` is the Python that has pip-audit."""
    options = ("--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off")
    command = [str(auditor), "-m", "pip_audit", "--requirement", str(lock), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return read_report(json.loads(done.stdout))
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"pip-audit ended with exit code {done.returncode}"])[-1]
        return Findings(skipped={"all packages": last})


def read_report(report: dict[str, list[dict[str, object]]]) -> Findings:
    """From pip-audit's report in JSON. Raises KeyError if it is not one."""
    found = Findings()
    for package in report["dependencies"]:
        if "skip_reason" in package:
            found.skipped[str(package["name"])] = str(package["skip_reason"])
            continue
        found.checked += 1
        vulnerabilities = package["vulns"]
        assert isinstance(vulnerabilities, list)
        for each in vulnerabilities:
            fixed = f"fixed in {', '.join(each['fix_versions'])}" if each["fix_versions"] else "not fixed yet"
            found.vulnerabilities.append(f"{package['name']} {package['version']}: {each['id']}, {fixed}")
    return found
