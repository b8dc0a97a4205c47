"""`python -m deploy.audit`: list licences and vulnerabilities; exit code 1 if something forbids to ship."""

import argparse
import sys
from collections import defaultdict
from importlib.metadata import Distribution, distributions
from pathlib import Path

from deploy.audit.licences import GPL_CARRIERS, gpl_files, licence_faults, licences
from deploy.audit.vulnerabilities import Findings, find_vulnerabilities

_LOCK = Path(__file__).parents[2] / "requirements" / "dev.txt"  # has what the others have


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.audit", description=__doc__)
    parser.add_argument("--required", action="store_true", help="fail, too, if vulnerabilities can't be checked")
    parser.add_argument("--auditor", type=Path, required=True, help="the Python that has pip-audit")
    given = parser.parse_args()
    packages = sorted({package.name: package for package in distributions()}.values(), key=lambda each: each.name)
    faults = show_licences(packages)
    faults += show_vulnerabilities(find_vulnerabilities(given.auditor, _LOCK), required=given.required)
    for fault in faults:
        print(f"audit: {fault}", file=sys.stderr)
    return 1 if faults else 0


def show_licences(packages: list[Distribution]) -> list[str]:
    """Print the packages by licence; returns what is not allowed."""
    by_licence = defaultdict[str, list[str]](list)
    for package in packages:
        by_licence[" or ".join(sorted(licences(package))) or "none named"].append(f"{package.name} {package.version}")
    for licence, names in sorted(by_licence.items()):
        print(f"{licence}: {', '.join(names)}")
    for package in packages:
        if package.name in GPL_CARRIERS and (files := gpl_files(package)):
            print(f"under the GPL within {package.name}: {', '.join(sorted(files))}")
    faults = [fault for package in packages for fault in licence_faults(package)]
    print(f"licences: {len(packages)} packages, {len(faults) or 'none'} not allowed by deploy/audit/allowed.txt")
    return faults


def show_vulnerabilities(found: Findings, *, required: bool) -> list[str]:
    """Print what was checked and what was not; returns the vulnerabilities and, if `required`, the latter."""
    faults = list(found.vulnerabilities)
    if found.checked:
        print(f"vulnerabilities: {found.checked} packages checked, {len(faults) or 'none'} known")
    if found.skipped:
        first = next(iter(found.skipped.values()))
        what = f"{len(found.skipped)} packages" if found.checked else "vulnerability data not reachable"
        unknown = f"not checked: {what} ({first})"
        print(f"vulnerabilities: {unknown}")
        faults += [f"vulnerabilities: {unknown}"] if required else []
    return faults


if __name__ == "__main__":
    sys.exit(main())
